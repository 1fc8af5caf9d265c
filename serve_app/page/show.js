// From values to what people read. Text goes into the page as text, never as markup.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made[name] = value;
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

// Makes `place` tell what `next` tells and keeps what is there: the focus, a selection, how far a table is scrolled. What
// stands for another thing than before, as its data-key says, is put anew: nobody's key press goes to another row.
export function morph(place, next) {
  const there = [...place.childNodes];
  const wanted = [...next.childNodes];
  wanted.forEach((node, at) => {
    const old = there[at];
    if (!old) place.append(node);
    else if (old.nodeName !== node.nodeName || old.dataset?.key !== node.dataset?.key) old.replaceWith(node);
    else if (node.nodeType === Node.TEXT_NODE) {
      if (old.data !== node.data) old.data = node.data;
    } else {
      for (const { name } of [...old.attributes]) if (!node.hasAttribute(name)) old.removeAttribute(name);
      for (const { name, value } of node.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
      old.onclick = node.onclick;
      morph(old, node);
    }
  });
  for (const old of there.slice(wanted.length)) old.remove();
}

// Whoever reads by ear, or goes on by keys, begins at the top of what is new.
export function focusHeading() {
  const heading = document.querySelector("main h1") ?? document.querySelector("main");
  heading.tabIndex = -1;
  heading.focus();
}

// Draws within `place`. Where the button that had the focus is gone, its like has it, or else the heading of the view:
// who works by keys is not sent back to the top.
export function keepingFocus(place, draw) {
  const held = place.contains(document.activeElement) ? document.activeElement : null;
  draw();
  if (!held || held.isConnected) return;
  const name = (one) => one.ariaLabel ?? one.textContent;
  const like = [...place.querySelectorAll("a, button")].find((one) => name(one) === name(held));
  if (like) like.focus();
  else focusHeading();
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

// On a phone a table may be wider than the screen: where nothing in it takes the focus, it takes it itself, to be scrolled.
export function table(caption, heads, rows) {
  const isHeld = rows.some((row) => row.querySelector("a, button"));
  return el("div", { class: "scroll", ...(isHeld ? {} : { tabindex: "0", role: "group", "aria-label": caption }) },
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
