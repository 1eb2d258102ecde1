// Build the page from elements and text only: nothing that came in as data is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

function put(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "vars") for (const [key, v] of Object.entries(value)) node.style.setProperty(key, v);
    else if (name === "style") Object.assign(node.style, value);
    else if (name === "href") node.setAttribute("href", safeHref(value));
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Links lead to pages of the console and nowhere else. */
function safeHref(href) {
  return /^(\/(?!\/)|#|\?)/.test(href) ? href : "#";
}

/** An HTML element; strings among the children become text. */
export function h(name, attributes, ...children) {
  return put(document.createElement(name), attributes, children);
}

/** An SVG element. */
export function svg(name, attributes, ...children) {
  return put(document.createElementNS(SVG, name), attributes, children);
}

export function replace(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

/** A card with a title; returns {card, header, body}. */
export function card(title, { note, span, body = "body", right } = {}) {
  const header = h("header", null, h("h2", null, title), note ? h("span", { class: "note" }, note) : null,
    right ? h("div", { class: "right" }, right) : null);
  const content = h("div", { class: body });
  return { card: h("section", { class: `card ${span ? `span-${span}` : ""}` }, header, content), header, body: content };
}

/** What to do when there is nothing to see. */
export function empty(title, text, command) {
  return h("div", { class: "empty" }, h("strong", null, title), text ? h("p", null, text) : null,
    command ? h("pre", null, command) : null);
}

/** Text in which the searched words are marked. */
export function marked(text, words) {
  const wanted = words.filter((word) => word.length > 1).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  if (!wanted.length) return [text];
  return text.split(new RegExp(`(${wanted.join("|")})`, "gi")).map((part, i) => (i % 2 ? h("mark", null, part) : part));
}
