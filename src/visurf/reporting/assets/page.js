"use strict";
// Puts the page together, and keeps it up to date while a run is watched.
(() => {
  const main = document.getElementById("main");
  let data = JSON.parse(document.getElementById("data").textContent);
  let viewer = null, curves = null, redraws = [];

  const stored = (value) => {
    // A page opened as a file may be refused its storage.
    try {
      if (value !== undefined) localStorage.setItem("visurf-theme", value);
      return localStorage.getItem("visurf-theme");
    } catch {
      return null;
    }
  };
  const themes = ["auto", "light", "dark"];
  let theme = themes.includes(stored()) ? stored() : "auto";
  const themeButton = document.getElementById("theme");
  const paint = () => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    themeButton.textContent = `Theme: ${theme}`;
    curves?.redraw();
    redraws.forEach((redraw) => redraw());
  };
  const nextTheme = () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    stored(theme);
    paint();
  };
  themeButton.addEventListener("click", nextTheme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

  // Paper is light whatever the screen shows, and a little narrower than A4 and Letter: the widths of one chart and of two side by side.
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.theme = "light";
    curves?.print(304);
    redraws.forEach((redraw) => redraw(640));
  });
  addEventListener("afterprint", () => {
    if (curves) curves.paper = null;
    paint();
  });

  const KEYS = { "j / ↓": "next group", "k / ↑": "previous group", "1 … 9": "that rollout alone", l: "the label alone", Esc: "all members again", "/": "search", t: "light, dark or the system's", "?": "this help" };
  const help = document.getElementById("help");
  const close = make("button", { type: "button" }, "Close");
  close.addEventListener("click", () => help.close());
  const keys = make("dl");
  for (const [key, meaning] of Object.entries(KEYS)) keys.append(make("dt", {}, make("kbd", {}, key)), make("dd", {}, meaning));
  help.append(make("h2", { id: "help-title" }, "Keyboard"), keys, close);
  document.getElementById("help-button").addEventListener("click", () => help.showModal());

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "Escape") {
      if (typing) event.target.blur();
      if (viewer?.focus) viewer.solo(viewer.focus);
    }
    if (typing) return;
    const inList = event.target.closest?.(".list") || event.target === document.body;
    const actions = { j: () => viewer?.move(1), k: () => viewer?.move(-1), t: nextTheme, "?": () => help.showModal(), l: () => viewer?.solo("L"), "/": () => document.getElementById("search")?.focus() };
    if (inList && viewer?.current) Object.assign(actions, { ArrowDown: () => viewer.move(1), ArrowUp: () => viewer.move(-1) });
    const action = /^[1-9]$/.test(event.key) ? () => viewer?.solo(event.key) : actions[event.key];
    // Arrows scroll the page unless a group in the list has the focus.
    if (!action || (event.key.startsWith("Arrow") && !event.target.closest?.(".list"))) return;
    event.preventDefault();
    action();
    if (event.key.startsWith("Arrow")) viewer.current.item?.firstChild.focus();
  });

  const contents = (names) => document.getElementById("nav").replaceChildren(...names.map(([id, title]) => make("a", { href: `#${id}` }, title)));

  function show() {
    redraws = [];
    const old = curves;
    curves = new Curves(data.curves);
    if (old) {
      curves.weight = old.weight;
      curves.hidden = old.hidden;
      old.plots.forEach((plot) => plot.destroy());
    }
    if (viewer) viewer.take(data);
    else viewer = new Viewer(data);
    main.replaceChildren(summarySection(data), trustSection(data, redraws), curves.section(), viewer.section());
    redraws.forEach((redraw) => redraw());
  }

  if (data.kind === "compare") {
    contents([["numbers", "Numbers"], ["differences", "Differences"]]);
    comparison(data, main);
  } else {
    contents([["runs", "Runs"], ["trust", "Reward and accuracy"], ["curves", "Curves"], ["groups", "Groups"]]);
    show();
  }
  document.getElementById("foot").append("Made by visurf. One file, no network. Charts: uPlot 1.6.32 (MIT licence).");
  paint();

  if (data.watch) {
    const live = document.getElementById("live");
    let tag = null;
    const ask = async () => {
      try {
        const answer = await fetch("data.json", tag ? { headers: { "If-None-Match": tag } } : {});
        if (answer.status === 200) {
          tag = answer.headers.get("ETag");
          const next = await answer.json(), at = scrollY, typed = document.activeElement?.id;
          if (next.made !== data.made) {
            data = next;
            show();
            scrollTo(0, at);
            if (typed) document.getElementById(typed)?.focus();
          }
        }
        live.className = "on";
        live.textContent = `live, step ${Math.max(...data.runs.map((run) => run.steps))}`;
      } catch {
        live.className = "";
        live.textContent = "the server has stopped";
      }
      setTimeout(ask, 3000);
    };
    ask();
  }
})();
