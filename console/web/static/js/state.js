// What every page's address carries (range, service, environment) and how its data is fetched.

const KEPT = ["range", "from", "to", "service", "env"];
export const RANGES = ["15m", "1h", "6h", "24h", "7d"];

export const query = new URLSearchParams(location.search);

/** The address of another page, with the same range and filters. */
export function link(path, extra = {}) {
  const target = new URLSearchParams();
  for (const key of KEPT) if (query.has(key)) target.set(key, query.get(key));
  for (const [key, value] of Object.entries(extra)) {
    if (value === null || value === undefined || value === "") target.delete(key);
    else target.set(key, value);
  }
  const text = target.toString();
  return text ? `${path}?${text}` : path;
}

/** Change this page's own address and load it; a null takes a parameter away. */
export function go(changes) {
  location.assign(here(changes));
}

export function here(changes) {
  const target = new URLSearchParams(query);
  for (const [key, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "") target.delete(key);
    else target.set(key, value);
  }
  const text = target.toString();
  return location.pathname + (text ? `?${text}` : "");
}

/** Write a change into the address without loading the page again. */
export function remember(changes) {
  for (const [key, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "") query.delete(key);
    else query.set(key, value);
  }
  const text = query.toString();
  history.replaceState(null, "", location.pathname + (text ? `?${text}` : ""));
}

export const storyLink = (id) => `/story/${encodeURIComponent(id)}`;

/** Fetch one of the console's data addresses with this page's range and filters. */
export async function data(name, extra = {}, signal) {
  const url = link(`/-/data/${name}`, extra);
  const response = await fetch(url, { headers: { Accept: "application/json" }, signal });
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new Error((answer && answer.error) || `The console answered ${response.status}.`);
  return answer;
}
