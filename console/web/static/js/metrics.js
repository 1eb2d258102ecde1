// Any metric: every name, searchable, graphed, and beside it the same time yesterday or last week.

import { TimeChart, times } from "./charts.js";
import { empty, h, replace } from "./dom.js";
import { data, go, link, query } from "./state.js";
import { fill, nothingYet, run, setTitle } from "./shell.js";

const COLOURS = ["p95", "http", "cache", "template", "ok", "error", "warn", "redirect", "mark", "rest"];
const NAMED = { p50: "p50", p95: "p95", p99: "p99", mean: "cache", max: "http", min: "rest", DEBUG: "debug", INFO: "info", WARNING: "warn", ERROR: "error", CRITICAL: "error/70" };
const metric = query.get("metric");

/** What has a colour of its own keeps it: percentiles, status codes, levels. */
function colourOf(label, index) {
  if (NAMED[label]) return NAMED[label];
  if (/^[1-5]\d\d$/.test(label)) return { 2: "ok", 3: "redirect", 4: "warn", 5: "error" }[label[0]] || "rest";
  return COLOURS[index % COLOURS.length];
}

const search = h("input", {
  class: "field", type: "search", placeholder: "Search metrics", "data-search": true, "aria-label": "Search metrics",
  autocomplete: "off", oninput: () => showNames(), style: { width: "100%" },
});
const names = h("nav", { class: "names", "aria-label": "Metrics" });
const side = h("section", { class: "card" }, h("div", { class: "body" }, search), names);
const main = h("div", { style: { display: "grid", gap: "var(--gap)", minWidth: 0 } });
const controls = h("div", { class: "search" });
const graphs = new Map();
let known = [];
let isLaidOut = false;

function showNames() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = known.filter((name) => words.every((word) => `${name.metric} ${name.services.join(" ")}`.toLowerCase().includes(word)));
  replace(names, found.length ? found.map((name) => h("a", {
    href: link("/metrics", { metric: name.metric, before: query.get("before") }), "data-row": true, title: name.help || null,
    "aria-current": name.metric === metric ? "true" : null,
  }, h("span", null, name.metric), h("span", { class: "kind" }, name.series > 1 ? `${name.kind} · ${name.series} series` : name.kind)))
    : h("div", { class: "empty" }, "No metric has such a name"));
}

search.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  const first = names.querySelector("a");
  if (first) location.assign(first.href);
});

function choose(name, label, choices, value) {
  return h("select", { "aria-label": label, name, onchange: (event) => go({ [name]: event.target.value }) },
    choices.map(([key, text]) => h("option", { value: key, selected: key === (value || "") }, text)));
}

function showControls(answer) {
  const parts = [];
  for (const [tag, values] of Object.entries(answer.values)) {
    if (values.length > 1 || query.has(`tag.${tag}`)) {
      parts.push(choose(`tag.${tag}`, `Only one ${tag}`, [["", `All: ${tag}`], ...values.map((value) => [value, value])], query.get(`tag.${tag}`)));
    }
  }
  const splits = [...(answer.metric ? answer.metric.tags : []), ...(answer.metric && answer.metric.services.length > 1 ? ["service"] : [])];
  if (splits.length) parts.push(choose("by", "Split", [["", "Not split"], ...splits.map((tag) => [tag, `By ${tag}`])], query.get("by")));
  parts.push(h("div", { class: "segments", role: "group", "aria-label": "Compare" }, [["", "Now"], ["day", "and yesterday"], ["week", "and last week"]].map(([key, label]) =>
    h("button", { type: "button", "aria-pressed": String((query.get("before") || "") === key), "data-before": key, onclick: () => go({ before: key }) }, label))));
  const isPastEmpty = answer.shift && !answer.before.some((graph) => graph.lines.some((line) => line.values.some((value) => value)));
  if (isPastEmpty) parts.push(h("span", { class: "muted" }, `Nothing is known of ${answer.shift === 86400 ? "yesterday" : "last week"} at this time`));
  replace(controls, parts);
}

function showGraph(graph, before, shift, marks, index) {
  const lines = graph.lines.map((line, i) => ({
    label: line.label || graph.title, colour: colourOf(line.label, i), fill: graph.lines.length > 4 ? false : 0.1,
  }));
  const series = graph.lines.map((line) => line.values);
  for (const line of before ? before.lines : []) {
    const beside = graph.lines.findIndex((other) => other.label === line.label);
    if (beside < 0) continue;
    // The past may be kept in longer steps than the present.
    series.push(times(graph).map((at) => line.values[Math.floor((at - shift - before.start) / before.step)] ?? null));
    lines.push({ label: `${lines[beside].label}, ${shift === 86400 ? "yesterday" : "last week"}`, colour: `${lines[beside].colour}/55`, dash: [5, 4], fill: false, width: 1.4 });
  }
  if (!graphs.has(index)) {
    graphs.set(index, new TimeChart({ title: graph.title, note: graph.unit, unit: graph.unit, height: 230 }));
    main.append(graphs.get(index).element);
  }
  graphs.get(index).update({ x: times(graph), series, lines, marks });
}

function render([list, answer], context) {
  if (!context.is_anything) { fill(nothingYet()); return; }
  known = list.metrics;
  if (!isLaidOut) {
    fill(h("div", { class: "split wide" }, side, main));
    isLaidOut = true;
    if (metric) main.append(controls);
    showNames();
    const current = names.querySelector("[aria-current]");
    if (current) names.scrollTop = current.offsetTop - names.offsetTop - 80;
  } else showNames();
  if (!answer) {
    replace(main, h("section", { class: "card" }, empty("Choose a metric", "Every name that was received stands in the list. Press / to search it.")));
    return;
  }
  setTitle(metric, answer.metric ? answer.metric.help : "");
  showControls(answer);
  main.querySelector(".empty")?.closest(".card").remove();
  if (!answer.graphs.length) main.append(h("section", { class: "card" }, empty("Nothing in this range", "Choose a longer range, or another service.")));
  answer.graphs.forEach((graph, i) => showGraph(graph, answer.before[i], answer.shift, answer.marks, i));
}

run({
  load: (signal) => {
    const asked = Object.fromEntries([...query].filter(([key]) => key === "by" || key === "before" || key.startsWith("tag.")));
    return Promise.all([data("metrics", {}, signal), metric ? data("metric", { metric, ...asked }, signal) : null]);
  },
  render,
});
