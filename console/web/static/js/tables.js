// The tables that more than one page shows.

import { sparkline } from "./charts.js";
import { h } from "./dom.js";
import { bytes, clock, dayAndMonth, exact, ms, percent, reqPerSecond } from "./format.js";
import { go, link, storyLink } from "./state.js";

/** Of a canonical line: column, head, writer. */
export const COLUMNS = [
  ["id", "Time", null], ["duration_ms", "Duration", ms], ["db_ms", "SQL", ms], ["db_queries", "Queries", exact],
  ["db_duplicates", "Repeated", exact], ["template_ms", "Templates", ms], ["http_ms", "Calls", ms],
  ["cpu_ms", "CPU", ms], ["queue_ms", "Queue", ms], ["first_byte_ms", "First byte", ms], ["http_calls", "Call count", exact],
  ["cache_hits", "Cache hits", exact], ["cache_misses", "Misses", exact], ["response_bytes", "Size", bytes],
];

export function statusPill(row) {
  if (row.kind !== "request") return h("span", { class: `pill ${row.exception_class ? "error" : ""}` }, row.kind);
  const mood = row.status >= 500 ? "error" : row.status >= 400 ? "warn" : row.status >= 200 && row.status < 300 ? "ok" : "";
  return h("span", { class: `pill ${mood}` }, row.status === null ? "–" : String(row.status));
}

/** Where a row's time went, as one bar. */
function shares(row) {
  const all = row.duration_ms || 1;
  const parts = [["sql", row.db_ms], ["template", row.template_ms], ["http", row.http_ms]];
  return h("div", { class: "shares-bar", title: parts.map(([name, value]) => `${name} ${ms(value)}`).join(", ") },
    parts.map(([token, value]) => (value > 0 ? h("i", { vars: { "--swatch": `var(--${token})` }, style: { width: `${Math.min(100, (value / all) * 100)}%` } }) : null)));
}

/** A table of canonical lines; with `sort` the heads sort, in the direction `isRising` says. */
export function requestTable(list, { columns, sort = null, isRising = false }) {
  const isOptional = (key) => ["db_queries", "cpu_ms", "db_ms"].includes(key) && key !== sort;
  const shown = COLUMNS.filter(([key]) => columns.includes(key));
  const header = ([key, label, write]) => h("th", {
    class: `${write ? "num" : ""} ${isOptional(key) ? "optional" : ""}`,
    "aria-sort": key === sort ? (isRising ? "ascending" : "descending") : null,
  }, sort ? h("button", { type: "button", "data-sort": key, onclick: () => go({ sort: key === "id" ? null : key, order: key === sort && !isRising ? "asc" : null, after: null }) },
    label, key === sort ? (isRising ? " ↑" : " ↓") : "") : label);
  return h("div", { class: "scroll" }, h("table", { class: "data" },
    h("thead", null, h("tr", null, header(shown[0]), h("th", null, "Status"), h("th", null, "Request"), h("th", { class: "optional" }, "User"),
      shown.slice(1).map(header), h("th", { class: "optional" }, "SQL · templates · calls"))),
    h("tbody", null, list.map((row) => {
      const seconds = row.id / 1e6;
      const what = row.kind === "request" ? `${row.method || ""} ${row.path || row.view || ""}` : row.name || "";
      const isOld = Date.now() / 1000 - seconds > 72000;
      return h("tr", { "data-row": true },
        h("td", { class: "nowrap muted", title: row.timestamp }, isOld ? `${dayAndMonth(seconds)} ${clock(seconds)}` : clock(seconds)),
        h("td", null, statusPill(row)),
        h("td", { class: "clip" }, row.correlation_id ? h("a", { "data-open": true, href: storyLink(row.correlation_id), title: `${what}\n${row.view || ""}` }, what) : what,
          " ", h("span", { class: "faint" }, row.service), row.exception_class ? [" ", h("span", { class: "error-ink" }, row.exception_class)] : null),
        h("td", { class: "optional muted" }, row.user_id || ""),
        shown.slice(1).map(([key, , write]) => h("td", { class: `num ${isOptional(key) ? "optional" : ""}` }, write(row[key]))),
        h("td", { class: "shares optional" }, shares(row)));
    }))));
}

/** Views with their numbers. */
export function viewTable(rows) {
  const most = Math.max(...rows.map((row) => row.share), 1e-9);
  return h("div", { class: "scroll" }, h("table", { class: "data" },
    h("thead", null, h("tr", null, h("th", null, "View"), h("th", { class: "num" }, "Rate"),
      h("th", { class: "num" }, "p95"), h("th", { class: "num optional" }, "Mean"), h("th", { class: "num optional" }, "Max"),
      h("th", { class: "optional" }, "Mean over time"), h("th", { class: "num optional" }, "Total time"), h("th", { class: "optional" }, ""))),
    h("tbody", null, rows.map((row) => h("tr", { "data-row": true },
      h("td", { class: "clip" }, h("a", { "data-open": true, href: link("/views", { view: row.view, service: row.service }), title: row.view }, row.view),
        " ", h("span", { class: "faint" }, row.service)),
      h("td", { class: "num" }, reqPerSecond(row.rate)),
      h("td", { class: "num" }, ms(row.p95)), h("td", { class: "num optional" }, ms(row.mean)), h("td", { class: "num optional" }, ms(row.max)),
      h("td", { class: "optional" }, sparkline(row.spark, { token: "p95" })),
      h("td", { class: "num optional" }, ms(row.total)),
      h("td", { class: "shares optional" }, h("div", { class: "meter", title: percent(row.share) }, h("i", { style: { width: `${(row.share / most) * 100}%` } }))))))));
}
