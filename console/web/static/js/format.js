// One way of writing every unit, on every page.

const number = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });

function digits(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 0.095) return value.toFixed(3).replace(/0+$/, "").replace(/\.$/, "");
  if (size < 0.95) return value.toFixed(2).replace(/0$/, "");
  if (size < 9.95) return value.toFixed(1).replace(/\.0$/, "");
  return value.toFixed(0);
}

const isMissing = (value) => value === null || value === undefined || Number.isNaN(value);

/** Milliseconds: "0.42 ms", "38 ms", "1.24 s", "3 min 10 s". */
export function ms(value) {
  if (isMissing(value)) return "–";
  if (value < 999.5) return `${digits(value)} ms`;
  const seconds = value / 1000;
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A whole count: "940", "12.4 k", "4.3 M". */
export function count(value) {
  if (isMissing(value)) return "–";
  const size = Math.abs(value);
  if (size < 10000) return size < 10 && value % 1 ? digits(value) : number.format(value);
  if (size < 999500) return `${digitsOf3(value / 1e3)} k`;
  if (size < 999.5e6) return `${digitsOf3(value / 1e6)} M`;
  return `${digitsOf3(value / 1e9)} G`;
}

const digitsOf3 = (value) => (Math.abs(value) < 99.95 ? value.toFixed(1).replace(/\.0$/, "") : value.toFixed(0));

export const exact = (value) => (isMissing(value) ? "–" : number.format(value));

/** Something per second: "48 /s", "0.2 /s". */
export const perSecond = (value) => (isMissing(value) ? "–" : `${value >= 1000 ? count(value) : digits(value)} /s`);
export const reqPerSecond = (value) => (isMissing(value) ? "–" : `${value >= 1000 ? count(value) : digits(value)} req/s`);

/** A share between 0 and 1: "0.4 %". */
export const percent = (value) => (isMissing(value) ? "–" : `${digits(value * 100)} %`);

export function bytes(value) {
  if (isMissing(value)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let power = 0;
  let size = value;
  while (Math.abs(size) >= 999.5 && power < units.length - 1) { size /= 1000; power += 1; }
  return `${power === 0 ? digits(size) : digitsOf3(size)} ${units[power]}`;
}

const plain = (value) => (isMissing(value) ? "–" : Math.abs(value) >= 10000 ? count(value) : digits(value));

/** The writer for a unit as the catalogue names it. */
export function forUnit(unit) {
  return { ms, bytes, "req/s": reqPerSecond, "/s": perSecond, share: percent, "%": (v) => (isMissing(v) ? "–" : `${digits(v)} %`), count }[unit] || plain;
}

const clockFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minuteFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const dayFormat = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", month: "short" });
const shortDay = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** Epoch seconds → "14:03:21" in the reader's time zone. */
export const clock = (seconds) => clockFormat.format(seconds * 1000);
export const minute = (seconds) => minuteFormat.format(seconds * 1000);
export const day = (seconds) => dayFormat.format(seconds * 1000);
export const dayAndMonth = (seconds) => shortDay.format(seconds * 1000);
export const moment = (seconds) => `${day(seconds)}, ${clock(seconds)}`;

/** Microseconds (a row's id) → "14:03:21.042". */
export const exactClock = (micros) => `${clock(micros / 1e6)}.${String(Math.floor(micros / 1000) % 1000).padStart(3, "0")}`;

/** "3 s ago", "12 min ago". */
export function ago(seconds, now) {
  const gone = Math.max(0, now - seconds);
  if (gone < 90) return `${Math.round(gone)} s ago`;
  if (gone < 5400) return `${Math.round(gone / 60)} min ago`;
  if (gone < 129600) return `${Math.round(gone / 3600)} h ago`;
  return `${Math.round(gone / 86400)} d ago`;
}

/** Change against before: "+12 %". */
export function change(now, before) {
  if (isMissing(now) || isMissing(before) || before === 0) return null;
  const share = (now - before) / before;
  if (Math.abs(share) < 0.005) return "±0 %";
  if (share > 9.99) return "> +999 %";
  return `${share > 0 ? "+" : "−"}${digits(Math.abs(share) * 100)} %`;
}
