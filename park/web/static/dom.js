// Elements, texts and numbers. Everything that comes from a job is set as text, never as HTML.

export const $ = (id) => document.getElementById(id);

/** An element with attributes (functions listen, null is left out) and children (texts become text). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

/** Set a text where it has changed: what is selected or read aloud stays undisturbed. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export const xsrf = document.querySelector('meta[name="xsrf"]').content;

/** The JSON of an address. An answer that is an error is thrown with its sentence. */
export async function ask(url, options = {}) {
  let response;
  try {
    response = await fetch(url, { credentials: "same-origin", ...options });
  } catch {
    throw new Error("park web does not answer: is it still running?");
  }
  const data = await response.json().catch(() => ({}));
  if (!response.ok) {
    const error = new Error(data.error || `park web answers with ${response.status}`);
    error.status = response.status;
    throw error;
  }
  return data;
}

export function post(url, body) {
  return ask(url, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Park-XSRF": xsrf },
    body: JSON.stringify(body || {}),
  });
}

/** A length of time as one reads it: 40 s, 3 min, 2 h 5 min, 3 d. */
export function span(seconds) {
  const s = Math.max(0, seconds);
  if (s < 100) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 36 * 3600) return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
  return `${Math.round(s / 86400)} d`;
}

export const now = () => Date.now() / 1000;
export const clock = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleString() : "");
export const percent = (part) => `${(100 * part).toFixed(part > 0 && part < 0.0995 ? 1 : 0)} %`;
export const count = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

export function bytes(n) {
  for (const unit of ["B", "kB", "MB", "GB", "TB"]) {
    if (n < 1000 || unit === "TB") return `${n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)} ${unit}`;
    n /= 1000;
  }
}

/** A number with six significant digits. */
export function figure(value) {
  return typeof value === "number" ? String(Number(value.toPrecision(6))) : "";
}

const SIGNS = {
  running: "▶", queued: "…", waiting: "◔", paused: "❚❚", complete: "✓", stopped: "■", failed: "✕", aborted: "⊘",
  idle: "○", busy: "▶", draining: "↓",
};

/** A state: a sign, a colour and the word. */
export function badge(word) {
  return h("span", { class: "badge", "data-state": word }, h("span", { "aria-hidden": "true" }, SIGNS[word] || "•"), word);
}

/** A bar; *label* says of what it is the part. */
export function meter(fraction, label, tone = "") {
  if (fraction === null || fraction === undefined) return h("span", { class: "meter none" });
  const bar = h("span", {
    class: `meter ${tone}`, role: "progressbar", "aria-label": label,
    "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": String(Math.round(100 * fraction)),
  }, h("span"));
  bar.firstChild.style.width = `${Math.min(100, 100 * fraction)}%`;
  return bar;
}

let fading;
/** Tell the reader something, aloud too. */
export function toast(text, grave = false) {
  const element = $("toast");
  element.dataset.grave = grave;
  element.textContent = text;
  clearTimeout(fading);
  fading = setTimeout(() => { element.textContent = ""; }, grave ? 15000 : 6000);
}
