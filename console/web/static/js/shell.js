// The frame around every page: filters, live refresh, keys, and what happens when data fails to come.

import { empty, h, replace } from "./dom.js";
import { dayAndMonth, minute } from "./format.js";
import { RANGES, data, go, link, query, remember, storyLink } from "./state.js";

const LIVE_MS = 10000;
const page = document.getElementById("page");
const filters = document.getElementById("filters");
let timer = null;
let isLive = localStorage.getItem("live") !== "off";
let refresh = () => {};

export const isFixed = () => query.has("to");

export function setTitle(text, small) {
  document.title = `${text} · introspect`;
  replace(document.getElementById("title"), text, small ? h("small", null, small) : null);
}

function select(name, label, values) {
  const current = query.get(name) || "";
  const all = current && !values.includes(current) ? [...values, current] : values;
  if (all.length < 2 && !current) return null;
  return h("select", { "aria-label": label, name, onchange: (event) => go({ [name]: event.target.value }) },
    h("option", { value: "" }, label),
    all.map((value) => h("option", { value, selected: value === current }, value)));
}

function rangePicker() {
  const current = query.get("range") || (query.has("from") ? null : "1h");
  const fixed = query.has("from")
    ? h("button", { type: "button", "aria-pressed": "true", title: "Back to a range that ends now", onclick: () => go({ from: null, to: null, range: "1h" }) },
      `${dayAndMonth(Number(query.get("from")))} ${minute(Number(query.get("from")))} – ${minute(Number(query.get("to") || Date.now() / 1000))} ✕`)
    : null;
  return h("div", { class: "segments", role: "group", "aria-label": "Range" },
    fixed,
    RANGES.map((range) => h("button", {
      type: "button", "aria-pressed": String(range === current), "data-range": range,
      onclick: () => go({ range, from: null, to: null }),
    }, range)));
}

function liveButton() {
  const button = h("button", { class: "button", type: "button", id: "live" });
  const show = () => {
    button.setAttribute("aria-pressed", String(isLive && !isFixed()));
    button.classList.toggle("live", isLive && !isFixed());
    replace(button, h("i", { class: "dot" }), isLive && !isFixed() ? "Live" : "Paused");
    button.title = isFixed() ? "A fixed range does not change" : "Refresh every 10 seconds (p)";
    button.disabled = isFixed();
  };
  button.addEventListener("click", () => {
    isLive = !isLive;
    localStorage.setItem("live", isLive ? "on" : "off");
    show();
    if (isLive) refresh();
  });
  show();
  return button;
}

function showFilters(context, withLive) {
  for (const old of filters.querySelectorAll(":scope > :not(h1)")) old.remove();
  const parts = [select("service", "All services", context.services), select("env", "All environments", context.envs), rangePicker()];
  if (withLive) parts.push(liveButton());
  filters.append(...parts.filter(Boolean));
}

/** Show a page: fetch `load(signal)`, give it to `render(answer, context)`, and again while live. */
export async function run({ load, render, withFilters = true, withLive = true }) {
  let controller = null;
  let context = null;
  const arm = () => { clearTimeout(timer); timer = setTimeout(tick, LIVE_MS); };
  const tick = () => {
    if (isLive && !isFixed() && withLive && document.visibilityState === "visible") show(); else arm();
  };
  async function show() {
    if (controller) controller.abort();
    controller = new AbortController();
    const mine = controller;
    try {
      if (withFilters && !context && !query.has("range") && !query.has("from")) await chooseRange(mine.signal);
      const wanted = [load(mine.signal)];
      if (!context) wanted.push(data("context", {}, mine.signal));
      const [answer, fresh] = await Promise.all(wanted);
      if (!context) { context = fresh; if (withFilters) showFilters(context, withLive); }
      document.querySelector(".banner")?.remove();
      await render(answer, context);
      page.dataset.ready = String(Number(page.dataset.ready || 0) + 1);
    } catch (error) {
      if (error.name === "AbortError") return;
      fail(error);
    }
    arm();
  }
  refresh = show;
  await show();
  return show;
}

/** A console that has not run for long has an hour of emptiness to show: begin with less. */
async function chooseRange(signal) {
  const { since } = await data("context", {}, signal);
  if (since && Date.now() / 1000 - since < 900) remember({ range: "15m" });
}

function fail(error) {
  console.error(error);
  const text = error instanceof TypeError && /fetch/i.test(error.message)
    ? "The console does not answer. Is it still running? This page tries again every 10 seconds."
    : error.message;
  document.querySelector(".banner")?.remove();
  page.prepend(h("div", { class: "banner", role: "alert" }, text));
}

/** The page for a console that has heard nothing yet. */
export function nothingYet() {
  return h("section", { class: "card" }, empty("Nothing received yet",
    "Start your application under introspect-run on this machine; it needs no settings to find this console.",
    "introspect-run gunicorn mysite.wsgi\n\n# logs, requests and stories too, in one command:\nintrospect console gunicorn mysite.wsgi"));
}

/** The page's main place, emptied and filled anew. */
export function fill(...children) {
  replace(page, ...children);
}

/* ---------- keys ---------- */

const KEYS = [
  ["/", "search"], ["j / k", "next, previous row"], ["Enter", "open the row"], ["1 – 5", "range: 15 min … 7 days"],
  ["p", "pause or resume"], ["g then o m r l v", "overview, metrics, requests, logs, views"], ["?", "these keys"],
];
const PLACES = { o: "/", m: "/metrics", r: "/requests", l: "/logs", v: "/views" };
let isGoing = false;

function move(step) {
  const rows = [...document.querySelectorAll("[data-row]")].filter((row) => row.offsetParent !== null);
  if (!rows.length) return;
  const at = rows.findIndex((row) => row.classList.contains("current"));
  const next = rows[Math.min(rows.length - 1, Math.max(0, at < 0 ? 0 : at + step))];
  rows.forEach((row) => row.classList.toggle("current", row === next));
  next.scrollIntoView({ block: "nearest" });
}

function open() {
  const row = document.querySelector("[data-row].current");
  const target = row && (row.matches("a") ? row : row.querySelector("[data-open]"));
  if (target) target.click();
}

function help() {
  const dialog = h("dialog", null, h("h2", null, "Keys"),
    h("dl", null, KEYS.map(([key, what]) => [h("dt", null, h("kbd", null, key)), h("dd", null, what)])));
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", () => dialog.close());
  document.body.append(dialog);
  dialog.showModal();
}

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input, select, textarea");
  if (event.key === "Escape" && isTyping) { event.target.blur(); return; }
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  if (isGoing) {
    isGoing = false;
    if (PLACES[event.key]) location.assign(link(PLACES[event.key]));
    return;
  }
  const actions = {
    "/": () => (document.querySelector("[data-search]") || document.getElementById("jump")).select(),
    j: () => move(1), k: () => move(-1), ArrowDown: null, Enter: event.target.matches("a, button") ? null : open,
    g: () => { isGoing = true; setTimeout(() => { isGoing = false; }, 1200); },
    p: () => document.getElementById("live")?.click(), "?": help,
  };
  RANGES.forEach((range, i) => { actions[String(i + 1)] = () => go({ range, from: null, to: null }); });
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
});

/* ---------- frame ---------- */

for (const anchor of document.querySelectorAll("[data-nav]")) anchor.href = link(anchor.getAttribute("href"));
document.querySelector(".brand").href = link("/");
document.getElementById("zone").textContent = `Times are in ${Intl.DateTimeFormat().resolvedOptions().timeZone}`;
document.querySelector("form.jump").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = document.getElementById("jump").value.trim();
  const isId = /^[0-9a-f]{8}-[0-9a-f-]{27}$|^[0-9a-f]{16,64}$/i.test(text);
  location.assign(isId ? storyLink(text) : link("/logs", { q: text }));
});
