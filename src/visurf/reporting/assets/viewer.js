"use strict";
// The group viewer: every recorded group with its picture, its members, and what the reward controls did to the label.

const SORTS = {
  step: ["Step", (g) => g.run * 1e9 + g.step],
  label: ["Label advantage, highest first", (g) => -(labelOf(g)?.advantage ?? -1e9)],
  worst: ["Mean reward, lowest first", (g) => g.meanReward],
  best: ["Mean reward, highest first", (g) => -g.meanReward],
  spread: ["Reward spread, widest first", (g) => -g.spread],
  quality: ["Best IoU, lowest first", (g) => g.bestQuality ?? 1e9],
};
const CHUNK = 80;

const labelOf = (group) => group.members.find((member) => member.source === "label");

function kindOf(member) {
  if (member.source === "label") return "label";
  if (Math.abs(member.advantage) < 1e-9) return "flat";
  return member.advantage > 0 ? "up" : "down";
}

const nameOf = (group, index) => (group.members[index].source === "label" ? "L" : String(index + 1));

function strip(group) {
  const top = Math.max(...group.members.map((m) => m.reward), 1e-9), low = Math.min(0, ...group.members.map((m) => m.reward));
  const svg = draw("svg", { class: "strip", viewBox: "0 0 300 18", preserveAspectRatio: "none", "aria-hidden": "true" });
  const width = Math.min(300 / group.members.length, 30);
  group.members.forEach((member, index) => {
    const height = Math.max(1.5, (17 * (member.reward - low)) / (top - low || 1));
    svg.append(draw("rect", { x: index * width + 1, y: 18 - height, width: width - 3, height, rx: 1.5, class: `f-${kindOf(member)}` }));
  });
  return svg;
}

// Names of reward parts may break behind their underscores.
const breakable = (name) => name.split(/(?<=_)/).flatMap((part, index) => (index ? [make("wbr"), part] : [part]));

class Viewer {
  constructor(data) {
    this.active = new Set();
    this.sort = "step";
    this.query = "";
    this.run = "all";
    this.current = null;
    this.focus = null;
    this.take(data);
  }

  take(data) {
    this.data = data;
    this.groups = data.groups;
    for (const group of this.groups) {
      const rollouts = group.members.filter((m) => m.source === "policy");
      const rewards = (rollouts.length ? rollouts : group.members).map((m) => m.reward);
      const known = rollouts.map((m) => m.quality).filter((q) => q !== null);
      group.key = `${data.runs[group.run].path}|${group.step}|${group.id}`;
      group.meanReward = rewards.reduce((a, b) => a + b, 0) / rewards.length;
      group.spread = Math.max(...rewards) - Math.min(...rewards);
      group.bestQuality = known.length ? Math.max(...known) : null;
    }
  }

  section() {
    const root = make("section", { id: "groups", "aria-labelledby": "groups-title" });
    const recorded = this.data.counts.reduce((sum, c) => sum + c.recorded, 0);
    const about = this.groups.length < recorded ? `${this.groups.length} of ${recorded} recorded groups, spread over the steps so that the page stays small.` : `All ${recorded} recorded groups.`;
    this.found = make("p", { role: "status" });
    root.append(make("header", {}, make("h2", { id: "groups-title" }, "Groups"), make("p", {}, about), this.found));
    if (!this.groups.length) {
      root.append(make("p", { class: "card empty" }, "No groups are recorded yet. recording.groups says how many of each step are."));
      return root;
    }
    this.list = make("ol", { class: "list card", "aria-label": "Groups" });
    this.detail = make("div", { class: "detail", id: "detail" });
    this.list.addEventListener("scroll", () => {
      if (this.list.scrollTop + this.list.clientHeight > this.list.scrollHeight - 300) this.more();
    });
    root.append(this.toolbar(), make("div", { class: "viewer" }, this.list, this.detail));
    this.refresh();
    return root;
  }

  toolbar() {
    const counted = (name) => this.groups.filter((group) => group.flags.includes(name)).length;
    const chips = make("div", { class: "chips", role: "group", "aria-label": "Filters" });
    for (const [name, meaning] of Object.entries(this.data.filters)) {
      const [title] = meaning.split(":");
      const chip = make("button", { type: "button", "aria-pressed": String(this.active.has(name)), title: meaning, "data-filter": name }, title + " ", make("span", { class: "count" }, String(counted(name))));
      chip.addEventListener("click", () => {
        this.active.has(name) ? this.active.delete(name) : this.active.add(name);
        chip.setAttribute("aria-pressed", String(this.active.has(name)));
        this.refresh();
      });
      chips.append(chip);
    }
    const search = make("input", { type: "search", id: "search", placeholder: "Search questions and texts ( / )", "aria-label": "Search questions and texts", value: this.query });
    search.addEventListener("input", () => { this.query = search.value; this.refresh(); });
    const sort = make("select", { id: "sort" }, Object.entries(SORTS).map(([name, [title]]) => make("option", { value: name, selected: name === this.sort }, title)));
    sort.addEventListener("change", () => { this.sort = sort.value; this.refresh(false); });
    const bar = make("div", { class: "controls" }, search, make("label", {}, "Sort", sort));
    if (this.data.runs.length > 1) {
      const runs = make("select", { id: "run" }, make("option", { value: "all" }, "all"), this.data.runs.map((run, index) => make("option", { value: String(index), selected: String(index) === this.run }, run.name)));
      runs.addEventListener("change", () => { this.run = runs.value; this.refresh(); });
      bar.append(make("label", {}, "Run", runs));
    }
    bar.append(chips);
    return bar;
  }

  matches(group) {
    if (this.run !== "all" && group.run !== Number(this.run)) return false;
    for (const name of this.active) if (!group.flags.includes(name)) return false;
    if (!this.query) return true;
    group.haystack ??= [group.id, group.question, `step ${group.step}`, ...group.members.map((m) => m.text)].join("\n").toLowerCase();
    return this.query.toLowerCase().split(/\s+/).every((word) => group.haystack.includes(word));
  }

  refresh(keep = true) {
    const order = SORTS[this.sort][1];
    this.showing = this.groups.filter((group) => this.matches(group)).sort((a, b) => order(a) - order(b));
    this.list.replaceChildren();
    this.listed = 0;
    this.found.textContent = this.showing.length === this.groups.length ? "" : `${this.showing.length} found`;
    if (!this.showing.length) {
      this.list.append(make("li", { class: "empty" }, "No group matches. Take a filter away."));
      this.detail.replaceChildren();
      this.current = null;
      return;
    }
    this.more();
    const kept = keep && this.showing.find((group) => group.key === this.current?.key);
    this.select(kept || this.showing[0], false);
  }

  more() {
    for (const group of this.showing.slice(this.listed, this.listed + CHUNK)) {
      const button = make("button", { type: "button" }, make("span", { class: "q" }, ...visible(group.question || group.id)), make("span", { class: "at" }, `step ${group.step}`), strip(group));
      button.addEventListener("click", () => this.select(group));
      group.item = make("li", {}, button);
      this.list.append(group.item);
    }
    this.listed = Math.min(this.listed + CHUNK, this.showing.length);
  }

  move(by) {
    const at = this.showing.indexOf(this.current) + by;
    if (at < 0 || at >= this.showing.length) return;
    while (at >= this.listed) this.more();
    this.select(this.showing[at]);
  }

  select(group, scroll = true) {
    for (const button of this.list.querySelectorAll('[aria-current="true"]')) button.removeAttribute("aria-current");
    const same = this.current?.key === group.key;
    this.current = group;
    group.item?.firstChild.setAttribute("aria-current", "true");
    if (scroll) group.item?.scrollIntoView({ block: "nearest" });
    if (!same) this.focus = null;
    this.detail.replaceChildren(...this.describe(group));
    this.emphasise();
  }

  describe(group) {
    const run = this.data.runs[group.run];
    const badges = group.flags.map((name) => make("span", { class: `badge ${name === "rescued" ? "label" : name === "flat" ? "" : name === "hollow" || name === "wrong" ? "bad" : "warn"}` }, this.data.filters[name].split(":")[0]));
    const header = make("header", {}, make("p", { class: "sub" }, `${run.name} · step ${group.step} · sample ${group.id}`), make("h3", {}, ...visible(group.question || "(no question)")), make("div", { class: "badges" }, badges));
    const layers = group.members.map((member, index) => ({ name: nameOf(group, index), kind: kindOf(member), answer: member.source === "label" ? group.target : member.answer, masks: member.source === "label" ? group.target_masks : member.masks }));
    if (!labelOf(group)) layers.push({ name: "target", kind: "label", answer: group.target, masks: group.target_masks });
    // The label's masks lie below, its outline on top of everything.
    const source = group.pictures?.[0] ? this.data.pictures[`${group.run}/${group.pictures[0]}`] : null;
    const words = `Picture for "${group.question}" with the answers of ${group.members.length} members`;
    const stage = make("div", { class: "stage" }, picture(source, group.size, layers, words));
    for (const name of (group.pictures ?? []).slice(1)) {
      const more = name && this.data.pictures[`${group.run}/${name}`];
      if (more) stage.append(make("img", { src: more, alt: "another picture of this sample" }));
    }
    const key = make("div", { class: "key", "aria-hidden": "true" });
    for (const [kind, title] of [["label", "label"], ["up", "rollout, advantage above 0"], ["down", "below 0"], ["flat", "exactly 0"]]) key.append(make("span", {}, make("i", { class: `k-${kind}` }), title));
    const left = make("div", {}, stage, key);
    const right = make("div", { class: "detail" }, this.table(group), this.happened(group));
    const texts = make("div", { class: "texts" }, group.members.map((member, index) => this.text(group, member, index)));
    return [make("div", { class: "card detail" }, header, make("div", { class: "split" }, left, right), texts)];
  }

  table(group) {
    const parts = [...new Set(group.members.flatMap((m) => Object.keys(m.parts)))];
    const widest = Math.max(...group.members.map((m) => Math.abs(m.advantage)), 1e-9);
    const supervised = group.members.some((m) => m.supervision);
    const head = make("tr", {}, ["", "advantage", "reward", ...(supervised ? ["supervision"] : []), ...parts, "IoU / right", "answer"].map((name) => make("th", { scope: "col" }, breakable(name))));
    const body = make("tbody");
    group.members.forEach((member, index) => {
      const kind = kindOf(member), name = nameOf(group, index);
      const width = (46 * Math.abs(member.advantage)) / widest;
      const bar = draw("svg", { viewBox: "0 0 100 16", preserveAspectRatio: "none", "aria-hidden": "true" }, draw("line", { x1: 50, x2: 50, y1: 0, y2: 16, stroke: "currentColor", "stroke-opacity": 0.35 }), draw("rect", { x: member.advantage < 0 ? 50 - width : 50, y: 4, width, height: 8, rx: 2, class: `f-${kind}` }));
      const who = make("button", { type: "button", class: "who", "aria-pressed": "false", "data-name": name, title: "show this one alone", "aria-label": member.source === "label" ? "label" : `rollout ${name}` }, make("span", { class: `dot d-${kind}` }, name));
      const row = make("tr", { "data-name": name }, make("td", {}, who), make("td", { class: "bar" }, make("div", {}, bar, make("span", {}, signed(member.advantage)))), make("td", {}, shown(member.reward, 2)), supervised ? make("td", {}, shown(member.supervision, 2)) : null,
        parts.map((part) => make("td", {}, shown(member.parts[part], 2))), make("td", {}, shown(member.quality, 2)), make("td", {}, answerInWords(member.answer, member.error)));
      row.addEventListener("click", () => this.solo(name));
      row.addEventListener("mouseenter", () => this.emphasise(name));
      row.addEventListener("mouseleave", () => this.emphasise());
      body.append(row);
    });
    return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Members of the group" }, make("table", { class: "members" }, make("thead", {}, head), body));
  }

  happened(group) {
    const acted = group.controls, label = labelOf(group);
    if (!label) return null;
    const lines = [];
    if (acted) {
      lines.push(acted.aligned ? "Align: written exactly as the policy writes answers." : "Align is off: written as raw JSON.");
      if (acted.eliminated.length) lines.push(`Eliminate: no reasoning of its own, so it earns nothing for ${acted.eliminated.join(", ")}.`);
      else lines.push(acted.own_reasoning ? "Eliminate: did not act, the label brings its own reasoning." : "Eliminate: did not act.");
      lines.push(acted.smoothed ? `Smooth: the best rollout (${shown(acted.best_rollout, 2)}) reaches the label (${shown(acted.before_smoothing, 2)}), so the label gets the rollouts' mean (${shown(label.reward, 2)}) and its advantage is 0.` : `Smooth: did not act, the best rollout earns ${shown(acted.best_rollout, 2)} and the label ${shown(acted.before_smoothing, 2)}.`);
    } else lines.push(group.smoothed ? "Smooth: the label got the rollouts' mean." : "Smooth: did not act.");
    return make("div", { class: "happened" }, make("strong", {}, "What the controls did to the label"), make("ul", {}, lines.map((line) => make("li", {}, line))));
  }

  text(group, member, index) {
    const name = nameOf(group, index), kind = kindOf(member);
    const badges = [];
    if (member.error) badges.push(make("span", { class: "badge warn" }, member.error));
    if (member.truncated) badges.push(make("span", { class: "badge warn" }, "truncated"));
    if (member.hint) badges.push(make("span", { class: "badge label" }, `${member.hint} tokens of hint`));
    const title = member.source === "label" ? "label" : `rollout ${name}`;
    const numbers = `reward ${shown(member.reward, 2)} · A ${signed(member.advantage)}${member.tokens ? ` · ${member.tokens} tokens` : ""}`;
    return make("article", { class: "text", "data-name": name }, make("header", {}, make("span", { class: `dot d-${kind}` }, name), make("strong", {}, title), make("span", { class: "n" }, numbers), badges), textBlock(member, `Text of ${title}`));
  }

  solo(name) {
    this.focus = this.focus === name ? null : name;
    this.emphasise();
  }

  emphasise(hovered = null) {
    const name = hovered ?? this.focus;
    for (const shape of this.detail.querySelectorAll(".member-shape")) shape.classList.toggle("dim", name !== null && shape.dataset.name !== name);
    for (const place of this.detail.querySelectorAll("tr[data-name], .text[data-name]")) place.classList.toggle("on", name !== null && place.dataset.name === name);
    for (const button of this.detail.querySelectorAll(".who")) button.setAttribute("aria-pressed", String(this.focus === button.dataset.name));
  }
}
