"use strict";
// Two models on the same samples: the numbers with paired intervals, and pictures of where they differ.

const COMPARE_FILTERS = { all: "All shown", first: "First better", second: "Second better", equal: "Equal score, other answer" };

function statistics(data) {
  const [first, second] = data.names;
  const head = make("tr", {}, ["metric", first, second, "difference", "95 % interval", "p", "p (Holm)", "samples"].map((name) => make("th", { scope: "col" }, name)));
  const body = data.statistics.map((row) => make("tr", {}, make("th", { scope: "row" }, row.name), make("td", { class: row.clear && row.difference < 0 ? "won" : "" }, shown(row.first, 4)), make("td", { class: row.clear && row.difference > 0 ? "won" : "" }, shown(row.second, 4)), make("td", {}, signed4(row.difference)),
    make("td", {}, `${signed4(row.low)} to ${signed4(row.high)}`), make("td", {}, shown(row.p, 3)), make("td", {}, shown(row.holm, 3)), make("td", {}, String(row.n))));
  return make("div", { class: "card scroll", tabindex: "0", role: "region", "aria-label": "Paired statistics" }, make("table", {}, make("thead", {}, head), make("tbody", {}, body)));
}

const signed4 = (value) => (value > 0 ? "+" : "") + shown(value, 4).replace("-", "−");

function sideOf(data, item, index) {
  const side = item.sides[index];
  const kind = index ? "up" : "down";
  const layers = [{ name: "model", kind, answer: side.answer, masks: side.masks }, { name: "label", kind: "label", answer: item.target, masks: item.target_masks }];
  const source = item.picture ? data.pictures[item.picture] : null;
  const won = item.difference !== null && (index ? item.difference > 0 : item.difference < 0);
  const words = `${data.names[index]}: ${answerInWords(side.answer, side.error)}`;
  return make("div", { class: "side" }, make("div", { class: "stage" }, picture(source, item.size, layers, words)),
    make("div", { class: "text" }, make("header", {}, make("span", { class: `dot d-${kind}` }, index ? "B" : "A"), make("strong", {}, data.names[index]), make("span", { class: won ? "won" : "n" }, `${shown(side.quality, 2)}`), make("span", { class: "n" }, answerInWords(side.answer, side.error))), textBlock(side, `Text of ${data.names[index]}`)));
}

function comparison(data, main) {
  const root = make("section", { id: "numbers", "aria-labelledby": "numbers-title" });
  root.append(make("header", {}, make("h1", { id: "numbers-title", class: "h2" }, `${data.names[0]} and ${data.names[1]}`), make("p", {}, `${data.samples} samples, the same in both; resampled together. Bold: the interval of the difference leaves out 0.`)), statistics(data));
  for (const note of data.notes) root.append(make("p", { class: "sub" }, note));
  const where = make("section", { id: "differences", "aria-labelledby": "differences-title" });
  const found = make("p", { role: "status" });
  where.append(make("header", {}, make("h2", { id: "differences-title" }, "Where they differ"), found));
  const list = make("div", { class: "pairs" });
  let chosen = "all", query = "", shownCount = 24;
  const belongs = (item) => (chosen === "all" || (chosen === "first" ? item.difference < 0 : chosen === "second" ? item.difference > 0 : !item.difference)) && (!query || `${item.id}\n${item.question}\n${item.sides.map((s) => s.text).join("\n")}`.toLowerCase().includes(query.toLowerCase()));
  const more = make("button", { type: "button" }, "Show more");
  const refresh = () => {
    const items = data.items.filter(belongs);
    found.textContent = `${items.length} of ${data.differing} samples with other answers or scores${data.items.length < data.differing ? ` (${data.items.length} embedded, the largest differences first)` : ""}`;
    list.replaceChildren(...items.slice(0, shownCount).map((item) => make("article", { class: "card pair" }, make("header", {}, make("h3", {}, ...visible(item.question || item.id)), make("span", { class: "sub" }, `sample ${item.id}`)), sideOf(data, item, 0), sideOf(data, item, 1))));
    if (!items.length) list.append(make("p", { class: "card empty" }, "Nothing here."));
    more.hidden = items.length <= shownCount;
  };
  more.addEventListener("click", () => { shownCount += 48; refresh(); });
  const chips = make("div", { class: "chips", role: "group", "aria-label": "Filters" }, Object.entries(COMPARE_FILTERS).map(([name, title]) => {
    const chip = make("button", { type: "button", "aria-pressed": String(name === chosen), "data-filter": name }, title.replace("First", data.names[0]).replace("Second", data.names[1]));
    chip.addEventListener("click", () => {
      chosen = name;
      for (const other of chips.children) other.setAttribute("aria-pressed", String(other === chip));
      refresh();
    });
    return chip;
  }));
  const search = make("input", { type: "search", id: "search", placeholder: "Search ( / )", "aria-label": "Search questions and texts" });
  search.addEventListener("input", () => { query = search.value; refresh(); });
  where.append(make("div", { class: "controls" }, search, chips), list, more);
  refresh();
  main.append(root, where);
}
