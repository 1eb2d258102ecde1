// Overview: how the site does, where its time goes, and what to look at first.

import { TimeChart, sparkline, times, valuesOf } from "./charts.js";
import { card, empty, h, replace } from "./dom.js";
import { ago, change, count, exact, ms, percent, reqPerSecond } from "./format.js";
import { data, link, query, remember, storyLink } from "./state.js";
import { fill, nothingYet, run } from "./shell.js";
import { viewTable } from "./tables.js";

const SHARES = { sql: "sql", templates: "template", "outgoing calls": "http", cache: "cache", "the rest": "rest" };
const PERCENTILES = [
  { label: "p99", colour: "p99", fill: 0.05 },
  { label: "p95", colour: "p95", fill: 0.1 },
  { label: "p50", colour: "p50", fill: 0.25 },
];
const MEAN_AND_MAX = [{ label: "max", colour: "p95" }, { label: "mean", colour: "p50", fill: 0.25 }];
const READINGS = {
  rss: ["Memory", "resident, per process"], cpu: ["CPU", "per process"], threads: ["Threads", "per process"],
  fds: ["Open files", "per process"],
};

const charts = {
  rate: new TimeChart({ title: "Requests", note: "per second, by status", unit: "req/s", kind: "stack", span: 6 }),
  latency: new TimeChart({ title: "Response time", note: "start to close", unit: "ms", series: PERCENTILES, span: 6 }),
  where: new TimeChart({ title: "Where the time goes", note: "mean per request", unit: "ms", kind: "stack", span: 8, height: 220 }),
  errors: new TimeChart({ title: "Error rate", note: "share of all responses", unit: "share", span: 4, height: 220, none: "No errors in this range" }),
  queue: new TimeChart({ title: "Waiting in front", note: "before we heard of it", unit: "ms", series: [{ label: "p95", colour: "p95" }, { label: "p50", colour: "p50", fill: 0.25 }], span: 4, height: 130, none: "The proxy sends no X-Request-Start" }),
};
const tiles = h("div", { class: "tiles" });
const views = card("Views", { span: 12, body: "flush" });
const tops = {
  statements: card("Top statements", { span: 6, body: "flush", note: "by total time" }),
  templates: card("Top templates", { span: 6, body: "flush", note: "by total time" }),
  hosts: card("Top hosts called", { span: 6, body: "flush", note: "by total time" }),
  exceptions: card("Top exceptions", { span: 6, body: "flush", note: "by count" }),
};
const refused = card("What the console could not use", { note: "since its file was made", body: "flush" });
const readings = new Map();
const bottom = h("div", { class: "grid" }, charts.queue.element);
const layout = [
  tiles,
  h("div", { class: "grid" }, charts.rate.element, charts.latency.element, charts.where.element, charts.errors.element,
    views.card, tops.statements.card, tops.exceptions.card, tops.templates.card, tops.hosts.card),
  bottom,
  refused.card,
];
let isLaidOut = false;

/** The colour of a status code: of its class, the rarer ones of the class paler. */
function statusLines(graph) {
  const classes = { 2: "ok", 3: "redirect", 4: "warn", 5: "error" };
  const seen = {};
  return [...graph.lines].sort((a, b) => a.label.localeCompare(b.label)).map((line) => {
    const token = classes[line.label[0]] || "rest";
    seen[token] = (seen[token] || 0) + 1;
    return { label: line.label, colour: seen[token] === 1 ? token : `${token}/${Math.max(35, 100 - 22 * (seen[token] - 1))}` };
  });
}

function tile(label, value, now, before, spark, { token, isLessBetter = true } = {}) {
  const [figure, ...unit] = value.split(" ");
  const moved = change(now, before);
  const isFlat = !moved || Math.abs(now - before) / before < 0.05;
  const mood = isFlat || isLessBetter === null ? "" : (now < before) === isLessBetter ? "better" : "worse";
  return h("div", { class: "card tile" },
    h("div", { class: "label" }, label),
    h("div", { class: "value" }, figure, unit.length ? h("small", null, unit.join(" ")) : null),
    h("div", { class: "change" }, moved ? [h("span", { class: mood }, moved), " against before"] : ""),
    spark && spark.length > 3 ? sparkline(spark.slice(1, -1), { token, height: 30 }) : null);
}

const PRESETS = [["costliest", "Most time"], ["slowest", "Slowest"], ["busiest", "Busiest"]];
let order = PRESETS.some(([key]) => key === query.get("views")) ? query.get("views") : "costliest";

function showViews(answer) {
  const picker = h("div", { class: "segments right" }, PRESETS.map(([key, label]) =>
    h("button", { type: "button", "aria-pressed": String(key === order), onclick: () => { order = key; remember({ views: key }); showViews(answer); } }, label)));
  replace(views.header, h("h2", null, "Views"), picker);
  replace(views.body, answer[order].length ? viewTable(answer[order]) : h("div", { class: "empty" }, "No views in this range"));
}

function ranks(place, rows, { href, name, worth, more, share, token, none }) {
  if (!rows.length) { replace(place.body, h("div", { class: "empty" }, none)); return; }
  const most = Math.max(...rows.map(share), 1e-9);
  replace(place.body, h("ol", { class: "ranks" }, rows.slice(0, 6).map((row) => h("li", { "data-row": true },
    h("a", { class: "name", href: href(row), title: name(row), "data-open": true }, h("code", null, name(row))),
    h("span", { class: "worth" }, worth(row)),
    h("div", { class: "more" }, h("span", { class: "meter" }, h("i", { vars: { "--swatch": `var(--${token})` }, style: { width: `${(share(row) / most) * 100}%` } })), more(row))))));
}

function showTops({ statements, templates, hosts, exceptions }) {
  const timed = (row) => `${count(row.count)} × ${ms(row.mean)}`;
  const common = { worth: (row) => ms(row.total), share: (row) => row.total, more: timed };
  ranks(tops.statements, statements, {
    ...common, name: (row) => row.statement || row.name, token: "sql", none: "No SQL in this range",
    href: (row) => link("/metrics", { metric: "db", service: row.service }),
  });
  ranks(tops.templates, templates, {
    ...common, name: (row) => row.name, token: "template", none: "No templates in this range",
    href: (row) => link("/metrics", { metric: "template", "tag.template": row.name }),
  });
  ranks(tops.hosts, hosts, {
    ...common, name: (row) => row.name, token: "http", none: "No outgoing calls in this range",
    href: (row) => link("/metrics", { metric: "http", "tag.host": row.name }),
  });
  ranks(tops.exceptions, exceptions, {
    name: (row) => `${row.exception} in ${row.view || "?"}`, worth: (row) => `${exact(row.count)} ×`, share: (row) => row.count, token: "error",
    more: (row) => [row.place, row.message].filter(Boolean).join(" · ").slice(0, 60), none: "No exceptions in this range",
    href: (row) => (row.correlation_id ? storyLink(row.correlation_id) : link("/requests", { q: row.exception })),
  });
}

function showReadings(graphs, marks) {
  for (const graph of graphs) {
    if (!readings.has(graph.title)) {
      const key = Object.keys(READINGS).find((name) => graph.title.includes(name));
      const [title, note] = READINGS[key] || [graph.title, ""];
      const chart = new TimeChart({ title, note, unit: graph.unit, span: 4, height: 130 });
      readings.set(graph.title, chart);
      bottom.append(chart.element);
    }
    const lines = [...graph.lines].reverse();
    readings.get(graph.title).update({
      x: times(graph), marks, series: lines.map((line) => line.values),
      lines: lines.map((line) => MEAN_AND_MAX.find((known) => known.label === line.label) || { label: line.label, colour: "p95" }),
    });
  }
}

/** Lines nobody understood, and what the kernel or a full disk took: a graph that lacks them must say so. */
function showRefused({ totals, bad_lines: bad }, now) {
  const lost = Object.entries(totals).filter(([name, value]) => value > 0 && /drop|lost|given_up|put_off/.test(name));
  refused.card.hidden = !bad.length && !lost.length;
  replace(refused.body, h("ol", { class: "ranks" },
    lost.map(([name, value]) => h("li", null, h("span", { class: "name" }, name), h("span", { class: "worth" }, exact(value)), h("div", { class: "more" }, "in this range"))),
    bad.slice(0, 8).map((line) => h("li", null, h("span", { class: "name" }, `${line.source}: ${line.reason}`), h("span", { class: "worth" }, `${exact(line.count)} ×`),
      h("div", { class: "more" }, h("code", { class: "name" }, line.example), `last ${ago(line.last_seen, now)}`)))));
}

function render(answer, context) {
  if (!context.is_anything) { fill(nothingYet()); isLaidOut = false; return; }
  if (!isLaidOut) { fill(...layout); isLaidOut = true; }
  const { requests, marks, latency, statuses, where, errors, queue } = answer;
  // Half an hour of data is nothing to compare an hour with.
  const before = answer.before.count > requests.count / 10 ? answer.before : {};
  const summed = answer.rate.lines.length ? answer.rate.lines[0].values : [];
  const failed = valuesOf(errors, "5xx");
  replace(tiles,
    tile("Requests", reqPerSecond(requests.rate), requests.rate, before.rate, summed, { isLessBetter: null, token: "ok" }),
    tile("Mean", ms(requests.mean), requests.mean, before.mean, where.lines.length ? times(where).map((_, i) => where.lines.reduce((all, line) => all + (line.values[i] || 0), 0)) : [], { token: "template" }),
    tile("p50", ms(requests.p50), requests.p50, before.p50, valuesOf(latency, "p50"), { token: "p50" }),
    tile("p95", ms(requests.p95), requests.p95, before.p95, valuesOf(latency, "p95"), { token: "p95" }),
    tile("p99", ms(requests.p99), requests.p99, before.p99, valuesOf(latency, "p99"), { token: "p99" }),
    tile("Server errors", percent(answer.error_rate), null, null, failed, { token: "error" }));
  const codes = statusLines(statuses);
  charts.rate.update({ x: times(statuses), marks, lines: codes, series: codes.map((line) => valuesOf(statuses, line.label)) });
  charts.latency.update({ x: times(latency), marks, series: PERCENTILES.map((line) => valuesOf(latency, line.label)) });
  charts.where.update({
    x: times(where), marks, series: where.lines.map((line) => line.values),
    lines: where.lines.map((line) => ({ label: line.label, colour: SHARES[line.label.toLowerCase()] || "rest" })),
  });
  charts.errors.update({
    x: times(errors), marks, series: ["4xx", "5xx"].map((label) => valuesOf(errors, label)),
    lines: [{ label: "4xx", colour: "warn", fill: 0.15 }, { label: "5xx", colour: "error", fill: 0.25 }],
  });
  charts.queue.update({ x: times(queue), marks, series: ["p95", "p50"].map((label) => valuesOf(queue, label)) });
  showReadings(answer.processes, marks);
  showViews(answer);
  showTops(answer);
  showRefused(answer.receiver, Date.now() / 1000);
}

run({ load: (signal) => data("overview", {}, signal), render });
