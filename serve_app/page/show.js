// From values to what people read. Text goes into the page as text, never as markup.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "?";
  let unit = 0;
  while (bytes >= 1024 && unit < UNITS.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return unit ? `${bytes.toFixed(1)} ${UNITS[unit]}` : `${Math.round(bytes)} B`;
}

export const rate = (perSecond) => (perSecond ? `${size(perSecond)}/s` : "");

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")} min`;
  if (whole < 172800) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d`;
}

export const clock = (text) => new Date(text).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
export const moment = (text) => (text ? new Date(text).toLocaleString() : "");
export const nameOf = (job) => job.filename ?? job.metadata?.filename ?? (job.url.replace(/\/+$/, "").split("/").pop() || job.url);
export const status = (word) => el("span", { class: `status ${word}` }, word);
export const isFinal = (job) => ["completed", "failed", "cancelled"].includes(job.status);

export function bar(label, done, total) {
  const made = el("progress", { "aria-label": label });
  setBar(made, done, total);
  return made;
}

export function setBar(made, done, total) {
  if (total === null || total === undefined) {
    made.removeAttribute("value");
    return;
  }
  made.max = total || 1;
  made.value = total ? done : 1;
}

export function facts(pairs) {
  return el("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

export function table(caption, heads, rows) {
  return el("div", { class: "scroll" },
    el("table", { "aria-label": caption },
      el("thead", {}, el("tr", {}, heads.map(([text, kind]) => el("th", { scope: "col", class: kind }, text)))),
      el("tbody", {}, rows)));
}

export const cell = (content, kind) => el("td", { class: kind }, content);

export function notice(text, kind = "") {
  const place = document.getElementById("notice");
  place.textContent = text;
  place.className = `notice ${kind}`;
  place.hidden = !text;
}
