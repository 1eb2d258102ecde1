// Logs: full-text search under a time line, with facets, and the tail of what comes in.

import { TimeChart, times } from "./charts.js";
import { card, empty, h, marked, replace } from "./dom.js";
import { count, dayAndMonth, exact, exactClock, moment } from "./format.js";
import { data, go, here, query, storyLink } from "./state.js";
import { fill, run } from "./shell.js";

const ORDER = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];
const COLOURS = { DEBUG: "debug", INFO: "info", WARNING: "warn", ERROR: "error", CRITICAL: "error/70" };
const TAIL_MS = 1000;
const TAIL_KEPT = 500;

const chart = new TimeChart({ unit: "count", kind: "bars", height: 96, none: "No lines in this range" });
const input = h("input", { class: "field wide", type: "search", name: "q", value: query.get("q") || "", placeholder: "Search: words, \"a phrase\", -without, begin*", "aria-label": "Search the logs", "data-search": true, autocomplete: "off" });
const tailButton = h("button", { class: "button", type: "button", id: "tail", "aria-pressed": "false", onclick: () => setTailing(!isTailing) }, h("i", { class: "dot" }), "Tail");
const form = h("form", { class: "search", onsubmit: (event) => { event.preventDefault(); go({ q: input.value.trim() }); } },
  input, h("button", { class: "button", type: "submit" }, "Search"), tailButton);
const chips = h("div", { class: "search" });
const facets = h("div", { class: "body facets" });
const list = h("ol", { class: "lines" });
const footer = h("div");
const note = h("span", { class: "note" });
const results = h("section", { class: "card" }, h("header", null, h("h2", null, "Lines"), note), h("div", { class: "flush" }, list, footer));
const open = new Set();
let rows = [];
let next = null;
let isLaidOut = false;
let isTailing = false;
let tailTimer = null;

const words = () => (query.get("q") || "").replace(/["*()]/g, " ").split(/\s+/).filter((word) => word && !word.startsWith("-"));
const asked = (extra = {}) => ({ q: query.get("q"), level: query.get("level"), logger: query.get("logger"), id: query.get("id"), ...extra });

const exceptionOf = (row) => [row.exception_class, row.exception_message].filter(Boolean).join(": ");

function details(row) {
  const facts = [
    ["Time", `${moment(row.id / 1e6)}`], ["Logger", row.logger], ["Service", [row.service, row.version].filter(Boolean).join(" ")], ["Environment", row.env],
    ["Process", [row.host, row.pid].filter(Boolean).join(" : ")], ["Thread", row.thread], ["From", [row.file, row.function].filter(Boolean).join(" ")],
    ["Correlation ID", row.correlation_id ? h("a", { href: storyLink(row.correlation_id) }, row.correlation_id) : null],
  ];
  let extra = row.extra;
  try { extra = row.extra && JSON.stringify(JSON.parse(row.extra), null, 1); } catch { /* shown as it came */ }
  return h("div", { class: "details" },
    h("dl", { class: "facts" }, facts.filter(([, value]) => value).map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value)))),
    h("pre", null, marked(row.message, words())),
    row.exception_class ? h("pre", { class: "error-ink" }, marked(exceptionOf(row), words())) : null,
    row.stack ? h("pre", null, marked(row.stack, words())) : null, extra && extra !== "{}" ? h("pre", { class: "muted" }, extra) : null);
}

function lineOf(row) {
  const seconds = row.id / 1e6;
  const isOld = Date.now() / 1000 - seconds > 72000;
  const item = h("li", { "data-row": true, "data-id": row.id });
  const toggle = () => {
    if (open.has(row.id)) open.delete(row.id); else open.add(row.id);
    show();
  };
  const show = () => replace(item,
    h("div", { class: `log ${row.level}`, "data-open": true, onclick: (event) => { if (!event.target.closest("a")) toggle(); } },
      h("time", { title: row.timestamp }, isOld ? `${dayAndMonth(seconds)} ${exactClock(row.id).slice(0, 8)}` : exactClock(row.id)),
      h("span", { class: `level ${row.level}` }, row.level),
      h("span", { class: "logger", title: `${row.service} ${row.logger}` }, row.logger),
      h("span", { class: "message" }, marked(row.message.split("\n")[0], words()), row.exception_class ? h("span", { class: "error-ink" }, " ", marked(exceptionOf(row), words())) : null),
      row.correlation_id ? h("a", { href: storyLink(row.correlation_id), title: row.correlation_id }, "story →") : h("span")),
    open.has(row.id) ? details(row) : null);
  show();
  return item;
}

function facet(title, name, values, label = (value) => value) {
  const current = query.get(name);
  const all = current && !values.some((entry) => entry.value === current) ? [{ value: current, count: 0 }, ...values] : values;
  if (!all.length) return null;
  return h("div", null, h("h3", null, title), all.slice(0, 14).map((entry) => h("button", {
    type: "button", "aria-pressed": String(entry.value === current), title: entry.value, "data-facet": name,
    onclick: () => go({ [name]: entry.value === current ? null : entry.value }),
  }, h("span", null, label(entry.value)), h("span", null, count(entry.count)))));
}

function showRows() {
  replace(list, rows.map(lineOf));
  replace(footer, !rows.length
    ? empty(isTailing ? "Waiting for the next line…" : "No line matches", isTailing ? null : "Search for less, or choose a longer range.")
    : next && !isTailing ? h("div", { class: "more-row" }, h("button", { class: "button", type: "button", onclick: more }, "Show older lines")) : null);
}

async function more() {
  const answer = await data("logs", asked({ before: next }));
  rows = [...rows, ...answer.rows];
  next = answer.next;
  list.append(...answer.rows.map(lineOf));
  if (!next) replace(footer);
}

function setTailing(wanted) {
  isTailing = wanted;
  tailButton.setAttribute("aria-pressed", String(isTailing));
  tailButton.classList.toggle("live", isTailing);
  clearTimeout(tailTimer);
  if (isTailing) tail();
}

/** Ask for what came after the newest line shown, every second, as `tail -f` does. */
async function tail() {
  try {
    const newest = rows.length ? rows[0].id : (Date.now() - 2000) * 1000;
    const answer = await data("tail", asked({ after: newest }));
    if (answer.rows.length) {
      if (!rows.length) replace(footer);
      const fresh = answer.rows.reverse();
      rows = [...fresh, ...rows].slice(0, TAIL_KEPT);
      list.prepend(...fresh.map(lineOf));
      while (list.children.length > TAIL_KEPT) list.lastChild.remove();
    }
  } catch (error) { console.error(error); }
  if (isTailing) tailTimer = setTimeout(tail, TAIL_MS);
}

function render(answer, context) {
  if (!context.has_logs) {
    fill(h("section", { class: "card" }, empty("No log lines yet", "The agent ships the application's log records when it is told where:",
      "introspect console gunicorn mysite.wsgi\n\n# or, if the console already runs:\nINTROSPECT_LOG=udp://127.0.0.1:8127 introspect-run gunicorn mysite.wsgi")));
    return;
  }
  if (!isLaidOut) {
    fill(form, chips, chart.element, h("div", { class: "split" }, h("section", { class: "card" }, facets), results));
    isLaidOut = true;
  }
  const lines = [...answer.timeline.lines].sort((a, b) => ORDER.indexOf(a.label) - ORDER.indexOf(b.label));
  chart.update({ x: times(answer.timeline), marks: answer.marks, series: lines.map((line) => line.values), lines: lines.map((line) => ({ label: line.label, colour: COLOURS[line.label] || "rest" })) });
  replace(chips, ["id"].filter((name) => query.has(name)).map((name) => h("a", { class: "pill", href: here({ [name]: null }), title: "Take this away" }, `ID ${query.get(name)} ✕`)));
  chips.hidden = !query.has("id");
  replace(note, `${exact(answer.total)} in this range${answer.counted_since ? `, counted since ${moment(answer.counted_since)}` : ""}`);
  replace(facets, facet("Level", "level", answer.levels), facet("Logger", "logger", answer.loggers));
  if (isTailing || rows.length > answer.rows.length) return;
  rows = answer.rows;
  next = answer.next;
  showRows();
}

run({ load: (signal) => data("logs", asked(), signal), render });
