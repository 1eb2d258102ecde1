// Views: all of them, or one with its latencies, statements, templates and callers.

import { HeatMap, TimeChart, times, valuesOf } from "./charts.js";
import { card, empty, h, replace } from "./dom.js";
import { count, exact, ms, percent, reqPerSecond } from "./format.js";
import { data, link, query } from "./state.js";
import { fill, nothingYet, run, setTitle } from "./shell.js";
import { requestTable, viewTable } from "./tables.js";

const view = query.get("view");
const heat = new HeatMap({ title: "Latency", note: "how many requests took how long" });
const latency = new TimeChart({ title: "Response time", unit: "ms", span: 6, height: 160, series: ["p99", "p95", "p50"].map((name) => ({ label: name, colour: name, fill: name === "p50" ? 0.25 : 0.07 })) });
const rate = new TimeChart({ title: "Requests", unit: "req/s", span: 6, height: 160, series: [{ label: "requests", colour: "ok", fill: 0.2 }] });
const tiles = h("div", { class: "tiles" });
const rest = h("div", { class: "grid" });
let isLaidOut = false;

const tile = (label, value) => h("div", { class: "card tile" }, h("div", { class: "label" }, label), h("div", { class: "value" },
  value.split(" ")[0], h("small", null, value.split(" ").slice(1).join(" "))));

function operations(title, rows, { token, span = 12, none }) {
  const place = card(title, { span, body: "flush" });
  if (!rows.length) { replace(place.body, h("div", { class: "empty" }, none)); return place.card; }
  const most = Math.max(...rows.map((row) => row.total), 1e-9);
  replace(place.body, h("div", { class: "scroll" }, h("table", { class: "data" },
    h("thead", null, h("tr", null, h("th", null, title === "SQL" ? "Statement" : "Name"), h("th", { class: "num" }, "Per request"), h("th", { class: "num" }, "ms each"),
      h("th", { class: "num optional" }, "ms per request"), h("th", { class: "num optional" }, "Max"), h("th", { class: "shares optional" }, ""))),
    h("tbody", null, rows.map((row) => h("tr", { "data-row": true },
      h("td", { class: "clip", title: row.statement || row.name }, h("code", null, row.statement || row.name)),
      h("td", { class: "num" }, row.per_request >= 3 ? h("span", { class: "pill warn" }, `${count(row.per_request)} ×`) : `${count(row.per_request)} ×`),
      h("td", { class: "num" }, ms(row.mean)), h("td", { class: "num optional" }, ms(row.ms_per_request)), h("td", { class: "num optional" }, ms(row.max)),
      h("td", { class: "shares optional" }, h("div", { class: "meter", title: percent(row.share) }, h("i", { vars: { "--swatch": `var(--${token})` }, style: { width: `${(row.total / most) * 100}%` } })))))))));
  return place.card;
}

function callers(answer) {
  const place = card("Callers", { span: 6, body: "flush", note: "among the newest requests" });
  const rows = [...answer.callers.map((caller) => ({ name: `${caller.service} · ${caller.origin}`, many: caller.count, href: caller.origin ? link("/views", { view: caller.origin, service: caller.service }) : null })),
    ...(answer.called_directly ? [{ name: "From outside", many: answer.called_directly, href: null }] : [])];
  const all = rows.reduce((sum, row) => sum + row.many, 0);
  replace(place.body, rows.length ? h("ol", { class: "ranks" }, rows.map((row) => h("li", { "data-row": true },
    row.href ? h("a", { class: "name", href: row.href, "data-open": true }, row.name) : h("span", { class: "name" }, row.name),
    h("span", { class: "worth" }, percent(row.many / all)),
    h("div", { class: "more" }, h("span", { class: "meter" }, h("i", { style: { width: `${(row.many / all) * 100}%` } })), `${exact(row.many)} requests`))))
    : h("div", { class: "empty" }, "No request of this view is known by its line"));
  return place.card;
}

function slowest(answer) {
  const place = card("Slowest requests", { span: 12, body: "flush", right: h("a", { href: link("/requests", { view, sort: "duration_ms" }) }, "all of them") });
  replace(place.body, answer.slowest.length ? requestTable(answer.slowest, { columns: ["id", "duration_ms", "db_ms", "db_queries"] }) : h("div", { class: "empty" }, "No request of this view is known by its line"));
  return place.card;
}

function renderOne(answer) {
  setTitle(view, answer.methods.join(", "));
  if (!isLaidOut) {
    fill(h("p", null, h("a", { href: link("/views") }, "← all views")), tiles, heat.element, h("div", { class: "grid" }, latency.element, rate.element), rest);
    isLaidOut = true;
  }
  const { summary, marks } = answer;
  const queries = answer.statements.reduce((sum, row) => sum + row.per_request, 0);
  replace(tiles, tile("Requests", reqPerSecond(summary.rate)), tile("p50", ms(summary.p50)), tile("p95", ms(summary.p95)), tile("p99", ms(summary.p99)),
    tile("Slowest", ms(summary.max)), tile("SQL per request", `${count(queries)} queries`));
  const { bounds, columns, start, step } = answer.heat;
  heat.update({ x: columns.map((_, i) => start + i * step), step, edges: bounds, counts: columns, marks });
  latency.update({ x: times(answer.latency), marks, series: ["p99", "p95", "p50"].map((name) => valuesOf(answer.latency, name)) });
  rate.update({ x: times(answer.rate), marks, series: [answer.rate.lines.length ? answer.rate.lines[0].values : []] });
  replace(rest,
    operations("SQL", answer.statements, { token: "sql", none: "No statement of this view is known: its lines carry events when it is slow or fails, or with INTROSPECT_DETAIL=all" }),
    operations("Templates", answer.templates, { token: "template", span: 6, none: "No templates" }),
    callers(answer),
    answer.calls.length ? operations("Outgoing calls", answer.calls, { token: "http", span: answer.cache.length ? 6 : 12 }) : null,
    answer.cache.length ? operations("Cache", answer.cache, { token: "cache", span: answer.calls.length ? 6 : 12 }) : null,
    slowest(answer));
}

function renderAll(answer, context) {
  if (!context.is_anything) { fill(nothingYet()); return; }
  const wanted = h("input", { class: "field wide", type: "search", placeholder: "Search views", "aria-label": "Search views", "data-search": true, autocomplete: "off" });
  const previous = document.querySelector("input[data-search]");
  if (previous) wanted.value = previous.value;
  const hadFocus = document.activeElement === previous && previous !== null;
  const place = h("section", { class: "card" });
  const show = () => {
    const rows = answer.views.filter((row) => `${row.view} ${row.service}`.toLowerCase().includes(wanted.value.toLowerCase()));
    const quiet = answer.names.filter((name) => !answer.views.some((row) => row.view === name) && name.toLowerCase().includes(wanted.value.toLowerCase()));
    replace(place, rows.length ? viewTable(rows) : empty("No view was asked for in this range", "Choose a longer range."),
      quiet.length ? h("p", { class: "body muted" }, "Quiet in this range: ", quiet.slice(0, 40).map((name, i) => [i ? ", " : "", h("a", { href: link("/views", { view: name }) }, name)])) : null);
  };
  wanted.addEventListener("input", show);
  show();
  fill(h("div", { class: "search" }, wanted), place);
  if (hadFocus) wanted.focus();
}

run(view ? { load: (signal) => data("view", { view }, signal), render: renderOne } : { load: (signal) => data("views", {}, signal), render: renderAll });
