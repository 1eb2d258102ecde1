// The story of one correlation ID: who called whom, what took how long, and what was said meanwhile.

import { card, empty, h, replace } from "./dom.js";
import { bytes, exact, exactClock, moment, ms } from "./format.js";
import { data, link } from "./state.js";
import { fill, run, setTitle } from "./shell.js";

const id = decodeURIComponent(location.pathname.split("/").pop());
const TOKENS = { db: "sql", template: "template", http: "http", cache: "cache" };
const KINDS = { db: "SQL", template: "template", http: "call", cache: "cache", log: "log" };
const LEVELS = { DEBUG: "debug", INFO: "info", WARNING: "warn", ERROR: "error", CRITICAL: "error" };
const SERVICES = ["s1", "s2", "s3", "s4", "s5", "s6"];
const GROUP_FROM = 4;

const opened = new Set();

/** Its services in the order in which they came into it. */
const servicesOf = (story) => [...new Set([...story.chapters.map((chapter) => chapter.service), ...story.services])];

/** Runs of the same thing become one row: "12 × SELECT …". */
function grouped(items) {
  const rows = [];
  for (const item of items) {
    const last = rows[rows.length - 1];
    if (last && item.type === "event" && last.type === "event" && last.key === item.key && item.event.child === null) last.members.push(item);
    else rows.push({ ...item, members: [item] });
  }
  return rows.flatMap((row) => (row.type === "event" && row.members.length < GROUP_FROM ? row.members.map((one) => ({ ...one, members: [one] })) : [row]));
}

function itemsOf(chapter) {
  const events = chapter.events.map((event) => ({ type: "event", at: event.offset_ms, event, key: `${event.kind} ${event.name} ${event.statement}` }));
  const logs = chapter.logs.map((log) => ({ type: "log", at: log.offset_ms, log }));
  return [...events, ...logs].sort((a, b) => a.at - b.at);
}

const share = (offset, story) => Math.max(0, Math.min(100, (offset / Math.max(story.duration_ms, 0.001)) * 100));

function bar(offset, duration, story, { token, className = "", label = ms(duration) }) {
  const left = share(offset, story);
  const width = Math.max(0, share(offset + duration, story) - left);
  const isLate = left + width > 86;
  const place = !isLate ? "" : left > 14 ? "before" : "inside";
  return [
    h("i", { class: `span ${className}`, vars: token ? { "--swatch": `var(--${token})` } : {}, style: { left: `${left}%`, width: `${width}%` } }),
    h("span", { class: `ms ${place}`, style: { left: `${place ? left : left + width}%` } }, label),
  ];
}

function unitRow(chapter, story, colours) {
  const { work } = chapter;
  const mood = work.status >= 500 || (work.kind !== "request" && chapter.exception) ? "error" : work.status >= 400 ? "warn" : "ok";
  return h("div", { class: "row unit", "data-row": true, "data-chapter": chapter.id, vars: { "--service": `var(--${colours[chapter.service]})`, "--depth": chapter.depth } },
    h("div", null, h("span", { class: "indent" }), chapter.depth ? h("span", { class: "faint" }, "↳") : null,
      h("span", { class: "grow", title: chapter.title }, h("span", { class: "muted" }, chapter.service), " ", chapter.title),
      h("span", { class: `pill badge ${mood}` }, chapter.status === null ? chapter.kind : String(chapter.status))),
    h("div", { class: "track" },
      work.first_byte_ms && work.first_byte_ms < chapter.duration_ms * 0.98 ? bar(chapter.offset_ms, chapter.duration_ms, story, { className: "first", label: "" }) : null,
      bar(chapter.offset_ms, work.first_byte_ms && work.first_byte_ms < chapter.duration_ms * 0.98 ? work.first_byte_ms : chapter.duration_ms, story, { label: "" }),
      bar(chapter.offset_ms, chapter.duration_ms, story, { className: "ghost" })[1]));
}

function eventRow(row, chapter, story, draw) {
  const { event, members } = row;
  const total = members.reduce((sum, member) => sum + member.event.ms, 0);
  const last = members[members.length - 1].event;
  const end = last.offset_ms + last.ms;
  const key = `${chapter.id}:${event.offset_ms}`;
  const isGroup = members.length > 1;
  const name = event.statement || event.name;
  const toggle = () => { if (opened.has(key)) opened.delete(key); else opened.add(key); draw(); };
  const failure = event.error || (event.status >= 400 ? String(event.status) : "");
  const main = h("div", { class: "row", "data-row": true, vars: { "--depth": chapter.depth + 1 }, role: "button", tabindex: "0", "data-open": true, onclick: toggle,
    onkeydown: (e) => { if (e.key === "Enter") toggle(); } },
    h("div", null, h("span", { class: "indent" }), h("span", { class: "kind" }, KINDS[event.kind] || event.kind),
      isGroup ? h("span", { class: "pill warn" }, `${members.length} ×`) : null,
      h("code", { class: "grow", title: name }, name), failure ? h("span", { class: "pill error badge" }, failure) : null),
    h("div", { class: "track" }, isGroup
      ? [members.map((member) => bar(member.event.offset_ms, member.event.ms, story, { token: TOKENS[event.kind] || "rest", label: "" })[0]),
        bar(event.offset_ms, end - event.offset_ms, story, { label: `${ms(total)} in all` })[1]]
      : bar(event.offset_ms, event.ms, story, { token: TOKENS[event.kind] || "rest" })));
  if (!opened.has(key)) return main;
  return [main, h("div", { class: "details" },
    h("dl", { class: "facts" }, fact("Kind", KINDS[event.kind] || event.kind), fact("Name", event.name), fact("At", `${ms(event.offset_ms)} after the start`),
      fact(isGroup ? "Times" : "Took", isGroup ? `${members.length}, ${ms(total)} in all, ${ms(total / members.length)} each` : ms(event.ms)),
      event.status !== null ? fact("Status", String(event.status)) : null, event.error ? fact("Error", event.error) : null),
    event.statement ? h("pre", null, event.statement) : null)];
}

const fact = (name, value) => h("div", null, h("dt", null, name), h("dd", null, value));

function logRow(log, depth, story, draw) {
  const key = `log:${log.id}`;
  const toggle = () => { if (opened.has(key)) opened.delete(key); else opened.add(key); draw(); };
  const token = LEVELS[log.level] || "info";
  const row = h("div", { class: "row line", "data-row": true, vars: { "--depth": depth }, role: "button", tabindex: "0", "data-open": true, onclick: toggle,
    onkeydown: (e) => { if (e.key === "Enter") toggle(); } },
    h("div", null, h("span", { class: "indent" }), h("span", { class: `kind level ${log.level}` }, log.level.toLowerCase()),
      h("span", { class: "grow", title: log.message }, log.message)),
    h("div", { class: "track" }, h("i", { class: "at", vars: { "--swatch": `var(--${token})` }, style: { left: `${share(log.offset_ms, story)}%` }, title: `${log.level} at ${ms(log.offset_ms)}` })));
  if (!opened.has(key)) return row;
  return [row, h("div", { class: "details" },
    h("dl", { class: "facts" }, fact("Logger", log.logger), fact("Service", log.service), fact("At", exactClock(log.id)), log.file ? fact("From", log.file) : null),
    h("pre", null, log.message, log.stack ? `\n\n${log.stack}` : ""))];
}

function ruler(story) {
  const steps = [0, 0.2, 0.4, 0.6, 0.8, 1];
  return h("div", { class: "row head" }, h("div"), h("div", { class: "ruler" },
    steps.map((step) => h("span", { style: { left: `${step * 100}%` } }, step ? ms(story.duration_ms * step) : "0"))));
}

function waterfall(story) {
  const colours = Object.fromEntries(servicesOf(story).map((service, i) => [service, SERVICES[i % SERVICES.length]]));
  const place = card("What happened", { body: "fall" });
  const legend = h("ul", { class: "legend right" },
    servicesOf(story).map((service) => h("li", null, h("i", { class: "swatch", vars: { "--swatch": `var(--${colours[service]})` } }), service)),
    Object.entries(TOKENS).map(([kind, token]) => h("li", null, h("i", { class: "swatch", vars: { "--swatch": `var(--${token})` } }), KINDS[kind])));
  place.header.append(legend);

  /** A chapter's own rows in the order of time, each call followed by the chapter it caused. */
  const rowsOf = (chapter) => {
    const children = story.chapters.filter((other) => other.parent === chapter.id);
    const placed = new Set();
    const rows = [unitRow(chapter, story, colours)];
    for (const item of grouped(itemsOf(chapter))) {
      if (item.type === "log") rows.push(logRow(item.log, chapter.depth + 1, story, draw));
      else {
        rows.push(eventRow(item, chapter, story, draw));
        for (const child of children) {
          if (item.members.some((member) => member.event.child === child.id)) { placed.add(child.id); rows.push(rowsOf(child)); }
        }
      }
    }
    if (chapter.events_dropped) {
      rows.push(h("div", { class: "row" }, h("div", { class: "faint" }, h("span", { class: "indent", vars: { "--depth": chapter.depth + 1 } }),
        `… and ${exact(chapter.events_dropped)} more, beyond the agent's cap`), h("div")));
    }
    for (const child of children) if (!placed.has(child.id)) rows.push(rowsOf(child));
    return rows;
  };

  function draw() {
    const roots = story.chapters.filter((chapter) => chapter.parent === null || !story.chapters.some((other) => other.id === chapter.parent));
    replace(place.body, ruler(story), roots.map(rowsOf));
  }
  draw();
  return place.card;
}

function troubles(story) {
  return story.chapters.filter((chapter) => chapter.exception).map((chapter) => {
    const { work } = chapter;
    const stack = chapter.logs.map((log) => log.stack).find((text) => text);
    return h("section", { class: "card trouble" }, h("div", { class: "body" },
      h("h2", null, h("span", { class: "error-ink" }, work.exception_class), work.exception_message ? `: ${work.exception_message}` : ""),
      h("p", { class: "muted" }, work.exception_place ? ["at ", h("code", null, work.exception_place), " "] : "", `in ${chapter.service}, ${chapter.title}`),
      stack ? h("details", null, h("summary", { class: "muted" }, "Traceback"), h("pre", { style: { whiteSpace: "pre-wrap" } }, stack)) : null));
  });
}

function facts(story) {
  const sum = (name) => story.chapters.reduce((all, chapter) => all + (chapter.work[name] || 0), 0);
  const first = story.chapters[0];
  const entry = (label, value, isSmall) => h("div", null, h("dt", null, label), h("dd", { class: isSmall ? "small" : "" }, value));
  const rows = [
    entry("Took", ms(story.duration_ms)),
    entry("Services", servicesOf(story).join(" → ")),
    entry("SQL", `${exact(sum("db_queries"))} queries${sum("db_duplicates") ? `, ${exact(sum("db_duplicates"))} repeated` : ""}, ${ms(sum("db_ms"))}`),
    sum("template_ms") ? entry("Templates", ms(sum("template_ms"))) : null,
    entry("Calls", `${exact(sum("http_calls"))}, ${ms(sum("http_ms"))}`),
    first && first.work.user_id ? entry("User", first.work.user_id) : null,
    first && first.work.response_bytes ? entry("Answer", bytes(first.work.response_bytes)) : null,
    first && first.work.version ? entry("Version", first.work.version) : null,
    entry("Started", moment(story.start), true),
    first && first.work.view ? entry("View", h("a", { href: link("/views", { view: first.work.view }) }, first.work.view), true) : null,
    entry("Lines", h("a", { href: link("/logs", { id, range: null, from: Math.floor(story.start) - 60, to: Math.ceil(story.start + story.duration_ms / 1000) + 60 }) }, "in the logs"), true),
  ];
  return h("section", { class: "card" }, h("dl", { class: "facts-row" }, rows));
}

function looseLogs(story) {
  if (!story.logs.length) return null;
  const place = card("Other lines with this ID", { body: "fall", note: "not written by any of the above" });
  const draw = () => replace(place.body, story.logs.map((log) => logRow(log, 0, story, draw)));
  draw();
  return place.card;
}

function render({ story }) {
  if (!story) {
    setTitle("Story", id);
    fill(h("section", { class: "card" }, empty("Nobody has heard of this ID", "It may be older than what is kept, or its service does not send its lines here: set INTROSPECT_LOG, or start the service with", "introspect console gunicorn mysite.wsgi")));
    return;
  }
  const first = story.chapters[0];
  setTitle(first ? first.title : "Story", id);
  fill(facts(story), troubles(story), story.chapters.length ? waterfall(story) : null, looseLogs(story),
    story.truncated ? h("p", { class: "muted" }, "This ID has more than is shown here: only its first 500 units of work and 2,000 log lines.") : null);
}

run({ load: (signal) => data("story", { id }, signal), render, withFilters: false, withLive: false });
