"use strict";
// Charts of every metric (uPlot), smoothed here, drawn only once they come into view.

function smoothed(values, weight) {
  let kept = null, scale = 0;
  return values.map((value) => {
    if (value === null || value === undefined) return value;
    kept = (kept ?? 0) * weight + value * (1 - weight);
    scale = scale * weight + (1 - weight);
    return kept / scale;
  });
}

function inkOf(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function axes(labels = {}) {
  const line = { stroke: inkOf("--line"), width: 1 };
  const axis = (extra) => ({ stroke: inkOf("--soft"), grid: line, ticks: line, font: "11px system-ui, sans-serif", ...extra });
  return [axis({ size: 28, space: 60 }), axis({ size: 52, values: (_, ticks) => ticks.map((tick) => ticked(tick, ticks)), ...labels })];
}

// As many digits as tell one tick from the next.
function ticked(tick, ticks) {
  const step = ticks.length > 1 ? Math.abs(ticks[1] - ticks[0]) : Math.abs(tick) || 1;
  if (Math.abs(tick) >= 1e5 || (tick !== 0 && step < 1e-5)) return tick.toExponential(1);
  return tick.toFixed(Math.max(0, Math.min(6, Math.ceil(-Math.log10(step) - 1e-9))));
}

// A range with some air, also around values that are all the same.
function airy(_, low, high) {
  if (low === null || high === null) return [0, 1];
  const air = (high - low) * 0.08 || Math.abs(high) * 0.1 || 0.5;
  return [low - air, high + air];
}

function pale(hex, alpha) {
  const value = parseInt(hex.slice(1), 16);
  return `rgba(${value >> 16}, ${(value >> 8) & 255}, ${value & 255}, ${alpha})`;
}

class Curves {
  constructor(data) {
    this.data = data;
    this.weight = 0.8;
    this.hidden = new Set();
    this.plots = new Map();
    this.places = [];
    this.paper = null;
    this.near = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting && !this.plots.has(entry.target)) this.plot(entry.target);
    }, { rootMargin: "300px" });
    this.resize = new ResizeObserver((entries) => {
      for (const { target } of entries) this.plots.get(target)?.setSize({ width: target.clientWidth, height: 172 });
    });
  }

  section() {
    const root = make("section", { id: "curves", "aria-labelledby": "curves-title" });
    root.append(make("header", {}, make("h2", { id: "curves-title" }, "Curves"), make("p", {}, "Faint: as measured. Bold: smoothed. A shaded band is the range over seeds of the same settings.")));
    const slider = make("input", { type: "range", min: "0", max: "0.98", step: "0.02", value: String(this.weight), "aria-label": "Smoothing" });
    const value = make("span", { class: "mono" }, this.weight.toFixed(2));
    slider.addEventListener("input", () => {
      this.weight = Number(slider.value);
      value.textContent = this.weight.toFixed(2);
      this.redraw();
    });
    const legend = make("div", { class: "legend", role: "group", "aria-label": "Runs" });
    this.data.lines.forEach((line, index) => {
      const button = make("button", { type: "button", "aria-pressed": "true" }, swatch(index), line.label);
      button.addEventListener("click", () => {
        this.hidden.has(index) ? this.hidden.delete(index) : this.hidden.add(index);
        button.setAttribute("aria-pressed", String(!this.hidden.has(index)));
        this.redraw();
      });
      legend.append(button);
    });
    root.append(make("div", { class: "controls" }, make("label", {}, "Smoothing", slider, value), legend));
    for (const { title, charts } of this.data.sections) {
      const grid = make("div", { class: "charts" });
      for (const chart of charts) grid.append(this.card(chart));
      root.append(make("h3", {}, title), grid);
    }
    return root;
  }

  card(chart) {
    const last = chart.series.map((line) => (line ? shown(line.y[line.y.length - 1]) : null)).filter((text) => text !== null);
    const place = make("div", { class: "plot", role: "img", "aria-label": this.inWords(chart) });
    place.chart = chart;
    this.places.push(place);
    this.near.observe(place);
    this.resize.observe(place);
    return make("div", { class: "card chart" }, make("h4", {}, chart.name, make("span", { title: "last value of each line" }, last.slice(0, 4).join(" · "))), make("p", {}, chart.meaning), place);
  }

  inWords(chart) {
    const lines = this.data.lines.map((line, index) => {
      const found = chart.series[index];
      return found ? `${line.label}: from ${shown(found.y[0])} to ${shown(found.y[found.y.length - 1])} over ${found.x.length} points` : null;
    });
    return `${chart.name}. ${lines.filter(Boolean).join("; ")}`;
  }

  plot(place) {
    const tables = [], series = [{ label: "step" }], bands = [];
    place.chart.series.forEach((line, index) => {
      if (!line || this.hidden.has(index)) return;
      const stroke = colour(index), many = line.x.length > 12 && this.weight > 0;
      const weight = many ? this.weight : 0;
      const columns = [line.x, smoothed(line.y, weight)];
      series.push({ label: this.data.lines[index].label, stroke, width: 2, spanGaps: true, points: { show: line.x.length <= 12, size: 6, fill: stroke }, value: (_, v) => shown(v) });
      if (line.low) {
        const at = series.length;
        columns.push(smoothed(line.high, weight), smoothed(line.low, weight));
        const edge = { stroke: pale(stroke, 0.35), width: 1, spanGaps: true, points: { show: false }, value: (_, v) => shown(v) };
        series.push({ ...edge, label: "highest" }, { ...edge, label: "lowest" });
        bands.push({ series: [at, at + 1], fill: pale(stroke, 0.16) });
      } else if (many) {
        columns.push(line.y);
        series.push({ label: "measured", stroke: pale(stroke, 0.28), width: 1, spanGaps: true, points: { show: false }, value: (_, v) => shown(v) });
      }
      tables.push(columns);
    });
    if (!tables.length) return;
    const options = {
      width: this.paper ?? place.clientWidth, height: 172, series, bands, axes: axes(), legend: { show: false }, padding: [8, 10, 0, 0],
      scales: { x: { time: false }, y: { range: airy } }, cursor: { sync: { key: "step" }, points: { size: 6 } }, hooks: { setCursor: [(plot) => this.point(place, plot)] },
    };
    this.plots.set(place, new uPlot(options, uPlot.join(tables), place));
  }

  point(place, plot) {
    const span = place.parentElement.querySelector("h4 span"), at = plot.cursor.idx;
    span.dataset.last ??= span.textContent;
    if (at === null || at === undefined) {
      span.textContent = span.dataset.last;
      return;
    }
    const values = plot.series.map((line, index) => [line, plot.data[index]?.[at]]).filter(([line], index) => index && !["measured", "highest", "lowest"].includes(line.label));
    span.textContent = `step ${shown(plot.data[0][at])}: ${values.map(([, value]) => shown(value)).join(" · ")}`;
  }

  redraw() {
    const drawn = [...this.plots];
    this.plots.clear();
    for (const [place, plot] of drawn) {
      plot.destroy();
      this.plot(place);
    }
  }

  // For paper every chart is drawn, also those that never came into view.
  print(width) {
    this.paper = width;
    this.redraw();
    for (const place of this.places) if (!this.plots.has(place)) this.plot(place);
  }
}
