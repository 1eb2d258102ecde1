// Requests: canonical lines, filtered and sorted.

import { TimeChart, times } from "./charts.js";
import { empty, h, replace } from "./dom.js";
import { data, go, here, query } from "./state.js";
import { fill, run } from "./shell.js";
import { COLUMNS, requestTable } from "./tables.js";

const FIELDS = ["q", "view", "status", "method", "min_ms", "max_ms", "user", "id", "kind", "version", "host"];
const ALWAYS = ["id", "duration_ms", "db_ms", "db_queries", "cpu_ms"];
const sort = query.get("sort") || "id";
const isRising = query.get("order") === "asc";
const chart = new TimeChart({ unit: "/s", kind: "bars", height: 84, series: [{ label: "requests", colour: "info" }] });
const results = h("section", { class: "card" });
let rows = [];
let next = null;
let isComplete = true;
let isLaidOut = false;

const field = (name, label, className, attributes = {}) => h("input", {
  class: `field ${className}`, name, placeholder: label, "aria-label": label, value: query.get(name) || "", autocomplete: "off", ...attributes,
});

function pick(name, label, choices) {
  return h("select", { name, "aria-label": label, onchange: submit }, [["", label], ...choices].map(([value, text]) =>
    h("option", { value, selected: value === (query.get(name) || "") }, text)));
}

const form = h("form", { class: "search", onsubmit: (event) => { event.preventDefault(); submit(); } },
  field("q", "Path, view, user or exception", "wide", { type: "search", "data-search": true }),
  pick("kind", "Any kind", [["request", "Requests"], ["command", "Commands"], ["task", "Tasks"]]),
  pick("status", "Any status", [["error", "Failed"], ["2xx", "2xx"], ["3xx", "3xx"], ["4xx", "4xx"], ["5xx", "5xx"], ["404", "404"], ["500", "500"]]),
  field("view", "View", "middle"), field("user", "User id", "short"), field("min_ms", "Min ms", "short", { inputmode: "decimal" }),
  field("max_ms", "Max ms", "short", { inputmode: "decimal" }), field("id", "Correlation ID", "middle"),
  h("button", { class: "button", type: "submit" }, "Search"),
  FIELDS.some((name) => query.has(name)) ? h("a", { href: here(Object.fromEntries(FIELDS.map((name) => [name, null]))) }, "Clear") : null);

function submit() {
  go(Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, String(value).trim()])));
}

function showRows() {
  const columns = ALWAYS.includes(sort) ? ALWAYS : [...ALWAYS, sort];
  replace(results, rows.length
    ? [isComplete ? null : h("div", { class: "more-row muted" }, "There was more to read than time for it: a shorter range or another filter gives the certain order."), requestTable(rows, { columns, sort, isRising }), next ? h("div", { class: "more-row" }, h("button", { class: "button", type: "button", onclick: more }, "Show more")) : null]
    : empty("No request matches", FIELDS.some((name) => query.has(name)) ? "Take a filter away, or choose a longer range." : "Nothing in this range: choose a longer one."));
}

function sortPicker() {
  return h("label", null, "Sort by", h("select", { onchange: (event) => go({ sort: event.target.value === "id" ? null : event.target.value, order: null }), "aria-label": "Sort by" },
    COLUMNS.map(([key, label]) => h("option", { value: key, selected: key === sort }, label))));
}

const asked = (extra = {}) => ({
  ...Object.fromEntries(FIELDS.filter((name) => query.get(name)).map((name) => [name, query.get(name)])),
  sort: query.get("sort"), order: query.get("order"), ...extra,
});

async function more() {
  const answer = await data("requests", asked({ after: next }));
  rows = [...rows, ...answer.rows];
  next = answer.next;
  isComplete = answer.is_complete;
  showRows();
}

function render(answer, context) {
  if (!context.has_work) {
    fill(h("section", { class: "card" }, empty("No requests yet", "The agent sends one line per request when it is told where:",
      "introspect console gunicorn mysite.wsgi\n\n# or, if the console already runs:\nINTROSPECT_LOG=udp://127.0.0.1:8127 introspect-run gunicorn mysite.wsgi")));
    return;
  }
  if (!isLaidOut) {
    form.append(sortPicker());
    fill(form, chart.element, results);
    isLaidOut = true;
  }
  chart.update({ x: times(answer.graph), series: [answer.graph.lines.length ? answer.graph.lines[0].values : []], marks: answer.marks });
  if (rows.length > answer.rows.length) return;  // More pages are open: do not take them away.
  rows = answer.rows;
  next = answer.next;
  isComplete = answer.is_complete;
  showRows();
}

run({ load: (signal) => data("requests", asked(), signal), render });
