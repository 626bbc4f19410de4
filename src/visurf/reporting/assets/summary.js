"use strict";
// The runs in short, and whether the reward means what it should.

const TILES = [
  ["reward/total", "reward"], ["label/advantage", "label advantage"], ["label/smoothed", "labels smoothed"],
  ["group/zero_variance", "flat groups"], ["parse/failed", "parse errors"], ["policy/entropy", "entropy"],
];

function tile(value, name) {
  return make("div", { class: "tile" }, make("b", {}, value), make("span", {}, name));
}

function copyButton(text) {
  const button = make("button", { type: "button", "aria-label": "Copy the command" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select and copy";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}

function pairs(values) {
  const list = make("dl");
  for (const [name, value] of Object.entries(values)) {
    list.append(make("dt", {}, name), make("dd", {}, typeof value === "object" ? JSON.stringify(value) : String(value)));
  }
  return list;
}

function lineOf(data, run) {
  return data.curves.lines.findIndex((line) => line.runs.includes(run));
}

function runCard(data, run, index) {
  const headline = data.deception[index].metrics[0];
  const tiles = make("div", { class: "tiles" }, tile(`${run.steps}${run.planned ? " / " + run.planned : ""}`, run.finished ? "steps, finished" : "steps"), tile(duration(run.seconds), "in steps"));
  if (headline) tiles.append(tile(shown(run.last[headline]), headline.replace("validation/", "held-out ")));
  for (const [key, name] of TILES) {
    if (!(key in run.last)) continue;
    const from = run.first[key];
    const box = tile(shown(run.last[key], 2), name);
    if (from !== undefined && run.steps > 1) box.title = `${shown(from)} at the first step, ${shown(run.last[key])} at the last`;
    tiles.append(box);
  }
  const card = make("article", { class: "card run" }, make("h3", {}, swatch(lineOf(data, index)), run.name), make("p", { class: "sub" }, [run.paradigm, run.settings["model.path"], run.settings["data.train"]].filter(Boolean).join(" · ")), tiles);
  if (run.damaged) card.append(make("p", { class: "note" }, `${run.damaged} damaged lines of metrics.jsonl were left out.`));
  if (!run.starts.length) card.append(make("p", { class: "sub" }, "The command was not recorded (a run of an earlier version)."));
  run.starts.slice(-3).forEach((start) => {
    if (start.step) card.append(make("p", { class: "sub" }, `went on after step ${start.step}, ${start.time}:`));
    card.append(make("div", { class: "command" }, make("code", { translate: "no" }, start.command || ""), copyButton(start.command || "")));
  });
  card.append(make("details", {}, make("summary", {}, "Settings"), pairs(run.settings)));
  if (Object.keys(run.versions).length) {
    card.append(make("details", {}, make("summary", {}, "Versions and machine"), pairs({ ...run.versions, ...run.machine, folder: run.path, started: run.starts.at(-1)?.time ?? "" })));
  }
  return card;
}

function summarySection(data) {
  const root = make("section", { id: "runs", "aria-labelledby": "runs-title" });
  root.append(make("header", {}, make("h1", { id: "runs-title", class: "h2" }, data.runs.length === 1 ? "The run" : `${data.runs.length} runs`), make("p", {}, `written ${data.made.replace("T", " ")}`)));
  root.append(make("div", { class: "runs" }, data.runs.map((run, index) => runCard(data, run, index))));
  return root;
}

function trustPlot(place, panel, part, metric, width) {
  place.replaceChildren();
  const accuracy = inkOf("--label"), reward = inkOf("--accent");
  const labels = axes();
  labels[1] = { ...labels[1], scale: "reward", stroke: reward };
  labels.push({ ...axes()[1], scale: "accuracy", side: 1, stroke: accuracy, grid: { show: false } });
  new uPlot({
    width: width ?? (place.clientWidth || 480), height: 210, legend: { show: false }, axes: labels, padding: [10, 6, 0, 0],
    scales: { x: { time: false }, reward: { range: airy }, accuracy: { range: airy } },
    series: [{}, { label: part, scale: "reward", stroke: reward, width: 2, points: { show: true, size: 6, fill: reward } }, { label: metric, scale: "accuracy", stroke: accuracy, width: 2, dash: [7, 4], points: { show: true, size: 7, fill: accuracy } }],
  }, [panel.steps, panel.rewards[part], panel.accuracy[metric]], place);
}

function correlationTable(panel) {
  const head = make("tr", {}, make("th", { scope: "col" }, "rank correlation with"), panel.metrics.map((name) => make("th", { scope: "col" }, name.replace("validation/", ""))));
  const body = Object.entries(panel.correlation).map(([part, values]) =>
    make("tr", {}, make("th", { scope: "row" }, part), values.map((rho) => make("td", { class: rho === null ? "" : rho >= 0.5 ? "rho-up" : rho <= -0.5 ? "rho-down" : "" }, rho === null ? "–" : signed(rho)))));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Rank correlations" }, make("table", {}, make("thead", {}, head), make("tbody", {}, body)));
}

function alarmList(panel) {
  if (!panel.alarms.length) return null;
  const raised = panel.alarms.filter((alarm) => alarm.steps.length);
  if (!raised.length) return make("p", { class: "sub" }, `No alarm was raised (${panel.alarms.map((alarm) => alarm.name.replace("alarm/", "")).join(", ")} watched).`);
  return make("div", { class: "note" }, make("strong", {}, "Alarms raised"), make("ul", {}, raised.map((alarm) => make("li", {}, `${alarm.name.replace("alarm/", "")}: at ${alarm.steps.length} steps, first ${alarm.steps[0]}, last ${alarm.steps.at(-1)}`))));
}

function select(label, names, chosen, changed) {
  const box = make("select", {}, names.map((name) => make("option", { value: name, selected: name === chosen }, name)));
  box.addEventListener("change", () => changed(box.value));
  return make("label", {}, label, box);
}

function trustCard(data, panel, index, redraws) {
  const card = make("article", { class: "card" }, make("h3", {}, swatch(lineOf(data, index)), data.runs[index].name));
  const alarms = alarmList(panel);
  if (alarms) card.append(alarms);
  const parts = Object.keys(panel.rewards);
  if (!panel.steps.length || !parts.length) {
    card.append(make("p", { class: "sub" }, parts.length ? "No held-out evaluation in this run: set data.validation and evaluation.every to see whether the reward can be trusted." : "This run sampled nothing, so there is no reward to compare."));
    return card;
  }
  let part = parts.includes("reward/total") ? "reward/total" : parts[0], metric = panel.metrics[0];
  const place = make("div", { class: "plot", role: "img" });
  const redraw = (width) => {
    place.setAttribute("aria-label", `${part} and ${metric} at ${panel.steps.length} evaluations`);
    trustPlot(place, panel, part, metric, width);
  };
  redraws.push(redraw);
  card.append(make("div", { class: "controls" }, select("Reward (solid)", parts, part, (value) => { part = value; redraw(); }), select("Held-out (dashed)", panel.metrics, metric, (value) => { metric = value; redraw(); })), place);
  if (panel.steps.length < panel.fewest) card.append(make("p", { class: "sub" }, `${panel.steps.length} evaluations: too few for a rank correlation (${panel.fewest} are needed).`));
  else {
    card.append(correlationTable(panel));
    card.append(make("p", { class: "sub" }, `Spearman's rank correlation over ${panel.steps.length} evaluations: 1 rises together, −1 against each other. Over a few it is hardly more than chance.`));
  }
  return card;
}

function trustSection(data, redraws) {
  const root = make("section", { id: "trust", "aria-labelledby": "trust-title" });
  root.append(make("header", {}, make("h2", { id: "trust-title" }, "Reward against held-out accuracy"), make("p", {}, "A reward that rises while accuracy falls is being gamed. Rewards are means over the steps since the previous evaluation.")));
  root.append(make("div", { class: "trust" }, data.deception.map((panel, index) => trustCard(data, panel, index, redraws))));
  return root;
}
