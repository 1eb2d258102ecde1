// Graphs over time: one look, one time axis, one cursor for all that stand on a page.

import { h, svg } from "./dom.js";
import { clock, dayAndMonth, forUnit, minute, moment } from "./format.js";
import { go } from "./state.js";

const uPlot = window.uPlot;
const cursors = uPlot.sync("console");
const charts = new Set();

/** The value of a colour token, e.g. "sql", or of a paler one, e.g. "ok/60". */
export function colour(name) {
  const [token, share] = name.split("/");
  const value = getComputedStyle(document.documentElement).getPropertyValue(`--${token}`).trim() || "#888";
  return share ? `color-mix(in srgb, ${value} ${share}%, ${colour("card")})` : value;
}

/** The same for a style. */
export function cssColour(name) {
  const [token, share] = name.split("/");
  return share ? `color-mix(in srgb, var(--${token}) ${share}%, var(--card))` : `var(--${token})`;
}

function faded(name, share) {
  return `color-mix(in srgb, ${colour(name)} ${share * 100}%, transparent)`;
}

/** An area's fill, a little paler than its edge, but opaque: what is painted over must not show. */
function softer(name) {
  const [token, share] = name.split("/");
  return colour(`${token}/${Math.round((share || 100) * 0.76)}`);
}

function timeLabels(self, ticks) {
  const span = ticks.length > 1 ? ticks[ticks.length - 1] - ticks[0] : 0;
  const step = ticks.length > 1 ? ticks[1] - ticks[0] : 60;
  return ticks.map((tick) => {
    if (step >= 86400 || (minute(tick) === "00:00" && span > 43200)) return dayAndMonth(tick);
    return step < 60 ? clock(tick) : minute(tick);
  });
}

/** A scale that starts at zero and leaves the highest value some air. */
function fromZero(self, low, high) {
  if (!(high > 0)) return [0, 1];
  return [0, high * 1.08];
}

function drawMarks(self, marks) {
  const { ctx, bbox } = self;
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, 0, bbox.width, self.ctx.canvas.height);
  ctx.clip();
  for (const mark of marks) {
    const x = Math.round(self.valToPos(mark.time, "x", true)) + 0.5;
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    const shade = mark.kind === "version" ? colour("mark") : faded("mark", 0.55);
    ctx.strokeStyle = shade;
    ctx.fillStyle = shade;
    ctx.lineWidth = ratio;
    ctx.setLineDash(mark.kind === "version" ? [] : [3 * ratio, 3 * ratio]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.beginPath();
    ctx.moveTo(x - 4 * ratio, bbox.top - 5 * ratio);
    ctx.lineTo(x + 4 * ratio, bbox.top - 5 * ratio);
    ctx.lineTo(x, bbox.top + ratio);
    ctx.fill();
  }
  ctx.restore();
}

function axes(self) {
  const base = {
    stroke: () => colour("ink-3"),
    font: "11px system-ui, sans-serif",
    grid: { stroke: () => colour("line"), width: 1 },
    ticks: { show: false },
  };
  return [
    { ...base, grid: { show: false }, values: timeLabels, size: 24, space: 64, gap: 4 },
    { ...base, values: (_, ticks) => ticks.map(self.yLabel), size: widthOfLabels, space: self.spec.height < 120 ? 22 : 34, gap: 4,
      ...(self.spec.splits ? { splits: self.spec.splits, filter: (_, ticks) => ticks } : {}) },
  ];
}

/** The values without a neighbour, which no line shows: they are drawn as dots. */
function alone(plot, series) {
  const values = plot.data[series];
  const found = [];
  for (let i = 0; i < values.length; i += 1) if (isKnown(values[i]) && !isKnown(values[i - 1]) && !isKnown(values[i + 1])) found.push(i);
  return found;
}

const isKnown = (value) => value !== null && value !== undefined;

/** Which steps to draw: one that the range cuts, or that has only just begun, looks like a collapse. */
function wholeSteps(steps) {
  if (steps.length < 12) return [0, steps.length];
  const step = steps[1] - steps[0];
  const isUnderWay = steps[steps.length - 1] + step > Date.now() / 1000 - 1;
  return [1, step <= 60 && isUnderWay ? steps.length - 1 : steps.length];
}

/** 1, 2 and 5 of every power of ten between two values. */
function logSplits(low, high) {
  const splits = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += 1) {
    for (const digit of [1, 2, 5]) {
      const value = Number((digit * 10 ** power).toPrecision(1));
      if (value >= low && value <= high) splits.push(value);
    }
  }
  return splits;
}

function widthOfLabels(self, values) {
  const longest = (values || []).reduce((most, value) => Math.max(most, value ? value.length : 0), 0);
  return Math.max(34, longest * 6.3 + 10);
}

/**
 * One graph in a card.
 *
 * spec: {title, note, unit, span, height, kind: "line"|"stack"|"bars", series: [{label, colour}],
 *        right, none}.  `update({x, series: [[…], …], marks, labels})` draws; x is epoch seconds.
 */
export class TimeChart {
  constructor(spec) {
    this.spec = { height: 190, kind: "line", series: [], ...spec };
    this.format = this.spec.format || forUnit(this.spec.unit);
    this.yLabel = (value) => this.format(value).replace(/\.0+(?= |$)/, "");
    this.legend = h("ul", { class: "legend right" });
    this.host = h("div", { class: "chart" });
    this.host.style.minHeight = `${this.spec.height + 10}px`;
    this.element = h("section", { class: `card ${this.spec.span ? `span-${this.spec.span}` : ""}` },
      this.spec.title || this.spec.note
        ? h("header", null, this.spec.title ? h("h2", null, this.spec.title) : null,
          this.spec.note ? h("span", { class: "note" }, this.spec.note) : null, this.legend)
        : null,
      this.host);
    this.tip = h("div", { class: "tip", hidden: true });
    this.none = h("div", { class: "none", hidden: true }, this.spec.none || "Nothing in this range");
    this.host.append(this.none);
    this.plot = null;
    charts.add(this);
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.host);
  }

  width() {
    return Math.max(120, this.host.clientWidth - 12);
  }

  resize() {
    if (!this.plot) return;
    const width = this.width();
    if (Math.abs(width - this.plot.width) > 1) this.plot.setSize({ width, height: this.spec.height });
  }

  update({ x: steps, series: values, marks = [], lines }) {
    if (lines) this.spec.series = lines;
    const [begin, end] = this.spec.kind === "bars" ? [0, steps.length] : wholeSteps(steps);
    const x = steps.slice(begin, end);
    const series = values.map((line) => line.slice(begin, end));
    this.marks = marks;
    this.raw = series;
    const shown = this.spec.kind === "line" ? series : this.stack(series);
    const signature = JSON.stringify(this.spec.series);
    this.none.hidden = series.some((values) => values.some((value) => value));
    this.latest = [x, ...shown];
    if (this.plot && signature === this.signature) {
      this.plot.setData(this.latest);
      this.markTip();
      return;
    }
    this.signature = signature;
    this.draw();
  }

  /** Sums from the bottom up, the highest first, because later series are painted over earlier ones. */
  stack(series) {
    const sums = [];
    let below = null;
    for (const values of series) {
      below = values.map((value, i) => (value || 0) + (below ? below[i] : 0));
      sums.unshift(below);
    }
    return sums;
  }

  /** The lines in drawing order. */
  order() {
    return this.spec.kind === "line" ? this.spec.series : [...this.spec.series].reverse();
  }

  draw() {
    if (this.plot) this.plot.destroy();
    const { kind } = this.spec;
    const lines = this.order().map((line) => {
      const isLine = kind === "line";
      const common = { points: { show: isLine, size: 5, width: 0, fill: () => colour(line.colour), filter: alone }, spanGaps: false };
      if (kind === "bars") {
        return { ...common, stroke: () => colour(line.colour), fill: () => colour(line.colour), width: 0, paths: uPlot.paths.bars({ size: [0.82, 60], align: 1, gap: 0 }) };
      }
      if (kind === "stack") {
        return { ...common, stroke: () => colour(line.colour), fill: () => softer(line.colour), width: 1.25, paths: uPlot.paths.linear() };
      }
      return {
        ...common, stroke: () => colour(line.colour), width: line.width || 1.75, dash: line.dash,
        fill: line.fill === false ? undefined : () => faded(line.colour, line.fill || 0.1), paths: uPlot.paths.linear(),
      };
    });
    const self = this;
    this.plot = new uPlot({
      width: this.width(),
      height: this.spec.height,
      padding: [10, 18, 0, 0],
      legend: { show: false },
      cursor: {
        sync: { key: cursors.key, setSeries: false, scales: ["x", null] },
        drag: { x: true, y: false, setScale: false, dist: 6 },
        y: false,
        points: { show: kind === "line", size: 6 },
      },
      scales: { x: { time: true, range: (_plot, low, high) => [low, high + this.room()] }, y: { range: fromZero, ...(this.spec.scale || {}) } },
      axes: axes(this),
      series: [{}, ...lines],
      hooks: {
        drawAxes: [(plot) => self.paint(plot)],
        draw: [(plot) => drawMarks(plot, self.marks)],
        setCursor: [(plot) => self.showTip(plot)],
        setSelect: [(plot) => self.zoom(plot)],
      },
    }, this.latest, this.host);
    this.plot.over.append(this.tip);
    this.showLegend();
  }

  /** Seconds to leave at the right: a bar begins at its step and needs the width of one. */
  room() {
    const [steps] = this.latest;
    return this.spec.kind === "bars" && steps.length > 1 ? steps[1] - steps[0] : 0;
  }

  /** What a kind of graph draws by itself, behind its lines. */
  paint() {}

  showLegend() {
    this.legend.replaceChildren(...this.spec.series.map((line) =>
      h("li", null, h("i", { class: "swatch", vars: { "--swatch": cssColour(line.colour) } }), line.label)));
  }

  markTip() {
    if (!this.tip.hidden) this.showTip(this.plot);
  }

  showTip(plot) {
    const { left, idx } = plot.cursor;
    const hovered = plot.over.matches(":hover");
    if (idx === null || idx === undefined || left < 0 || !hovered) { this.tip.hidden = true; return; }
    const at = plot.data[0][idx];
    const rows = this.spec.series.map((line, i) => ({ line, value: this.raw[i][idx] }))
      .filter((row) => row.value !== null && row.value !== undefined);
    if (this.spec.kind !== "line") rows.reverse();
    const shown = rows.filter((row) => this.spec.kind === "line" || row.value > 0);
    const near = this.marks.filter((mark) => Math.abs(plot.valToPos(mark.time, "x") - left) < 6).slice(0, 4);
    this.tip.replaceChildren(
      h("time", null, moment(at)),
      h("table", null, shown.map(({ line, value }) => h("tr", null,
        h("td", null, h("i", { class: "swatch", vars: { "--swatch": cssColour(line.colour) } })),
        h("td", null, line.label), h("td", null, this.format(value))))),
      ...near.map((mark) => h("div", { class: "mark-line" }, `▾ ${mark.title}, ${clock(mark.time)}`)));
    this.tip.hidden = false;
    const room = plot.over.clientWidth;
    const width = this.tip.offsetWidth;
    this.tip.style.left = `${left + 14 + width > room ? Math.max(-30, left - width - 14) : left + 14}px`;
  }

  zoom(plot) {
    const { left, width } = plot.select;
    // Every graph that shares the cursor is told of a selection; the event has the one dragged over.
    if (width < 6 || !plot.cursor.event) return;
    const from = Math.floor(plot.posToVal(left, "x"));
    const to = Math.ceil(plot.posToVal(left + width, "x"));
    go({ range: null, from, to, before: null });
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts) if (chart.plot) chart.draw();
});

/** The times of a graph's steps. */
export const times = (graph) => {
  const steps = graph.lines.reduce((most, line) => Math.max(most, line.values.length), 0);
  return Array.from({ length: steps }, (_, i) => graph.start + i * graph.step);
};

/** The values of a graph's line, `null` throughout if it has none of that label. */
export function valuesOf(graph, label) {
  const line = graph && graph.lines.find((candidate) => candidate.label === label);
  return line ? line.values : (graph ? times(graph) : []).map(() => null);
}

/** A small line without axes. */
export function sparkline(values, { token = "p95", height = 22 } = {}) {
  const known = values.map((value) => value || 0);
  const high = Math.max(...known, 1e-9);
  const step = 100 / Math.max(1, known.length - 1);
  const points = known.map((value, i) => `${(i * step).toFixed(2)} ${(height - 1.5 - (value / high) * (height - 3)).toFixed(2)}`);
  const line = `M${points.join("L")}`;
  return svg("svg", { class: "spark", viewBox: `0 0 100 ${height}`, preserveAspectRatio: "none", "aria-hidden": "true", vars: { "--spark": `var(--${token})` } },
    known.length > 1 ? svg("path", { class: "area", d: `${line}L100 ${height}L0 ${height}Z` }) : null,
    known.length > 1 ? svg("path", { class: "line", d: line }) : null);
}

/**
 * Latency over time as shades: `update({x, step, edges, counts, marks})`, where `edges` are the
 * bounds of the latency classes in ms and counts[i][j] is how many at x[i] fell into class j.
 */
export class HeatMap extends TimeChart {
  constructor(spec) {
    super({ height: 240, unit: "ms", ...spec, series: [{ label: "few", colour: "heat-0", width: 0, fill: false }] });
  }

  update({ x, step, edges, counts, marks = [] }) {
    this.heat = { x, step, edges, counts };
    this.marks = marks;
    this.peak = counts.reduce((most, row) => row.reduce((a, b) => Math.max(a, b), most), 0);
    this.none.hidden = this.peak > 0;
    const [low] = this.bounds();
    this.latest = [x, x.map(() => low)];
    this.raw = [x.map(() => low)];
    this.spec.scale = { distr: 3, log: 10, range: () => this.bounds() };
    this.spec.splits = () => logSplits(...this.bounds());
    this.draw();
  }

  /** The latencies to show: only classes in which anything was counted, and a little around. */
  bounds() {
    const { edges, counts } = this.heat;
    const used = edges.slice(0, -1).map((_, j) => counts.some((row) => row[j] > 0));
    const first = Math.max(0, used.indexOf(true));
    const last = Math.max(first, used.lastIndexOf(true));
    return this.peak ? [edges[Math.max(0, first - 1)], edges[Math.min(edges.length - 1, last + 2)]] : [1, 1000];
  }

  paint(plot) {
    const { x, step, edges, counts } = this.heat;
    const { ctx, bbox } = plot;
    const low = colour("heat-0");
    const high = colour("heat-1");
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    const shades = Array.from({ length: 33 }, (_, i) => `color-mix(in oklab, ${high} ${(i / 32) * 100}%, ${low})`);
    x.forEach((at, i) => {
      const left = plot.valToPos(at, "x", true);
      const width = plot.valToPos(at + step, "x", true) - left;
      counts[i].forEach((many, j) => {
        if (!many) return;
        const top = plot.valToPos(edges[j + 1], "y", true);
        const bottom = plot.valToPos(edges[j], "y", true);
        ctx.fillStyle = shades[Math.round(Math.sqrt(many / this.peak) * 32)];
        ctx.fillRect(left, top, Math.ceil(width - (width > 5 ? 1 : 0)), Math.ceil(bottom - top));
      });
    });
    ctx.restore();
  }

  showLegend() {
    const shades = [0, 25, 50, 75, 100].map((share) => h("i", { class: "swatch", vars: { "--swatch": `color-mix(in oklab, var(--heat-1) ${share}%, var(--heat-0))` } }));
    this.legend.replaceChildren(h("li", null, "few", shades, "many"));
  }

  showTip(plot) {
    const { left, top, idx } = plot.cursor;
    if (idx === null || idx === undefined || left < 0 || !plot.over.matches(":hover")) { this.tip.hidden = true; return; }
    const { x, step, edges, counts } = this.heat;
    const at = plot.posToVal(left, "x");
    const i = x.findIndex((start) => start <= at && at < start + step);
    const value = plot.posToVal(top, "y");
    const j = edges.findIndex((edge, k) => edge <= value && value < edges[k + 1]);
    if (i < 0 || j < 0) { this.tip.hidden = true; return; }
    this.tip.replaceChildren(h("time", null, moment(x[i])),
      h("strong", null, `${Math.round(counts[i][j])} requests`), ` of ${this.format(edges[j])} – ${this.format(edges[j + 1])}`);
    this.tip.hidden = false;
    const width = this.tip.offsetWidth;
    this.tip.style.left = `${left + 14 + width > plot.over.clientWidth ? left - width - 14 : left + 14}px`;
  }
}
