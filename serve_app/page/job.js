// One job: how far it is, who carries which parts, what happened to it, and what can be done.

import { follow, get, post, ask } from "./api.js";
import { bar, clock, el, facts, isFinal, keepingFocus, moment, nameOf, notice, rate, setBar, size, span, status } from "./show.js";

const CELLS_MAX = 600;
const POLL_MS = 1000;
const PARTS_MS = 2000;
const COLORS = 6;
const RUNS_TOLD = 3;

const ADVICE = {
  source: "The origin is the cause: see whether the link still works, then retry.",
  sink: "The bucket is the cause: the operators are told; retry when it is well again.",
  caller: "The request is the cause: change it and ask again.",
  us: "The cluster is the cause: retry, and tell the operators if it happens again.",
};
const WORDS = {
  created: "Asked for", metadata: "Looked at", started: "Download began", uploading: "All parts are there; completing and verifying",
  completed: "Completed and verified", failed: "Failed", requeued: "Handed back to the queue", paused: "Paused", resumed: "Resumed",
  cancelled: "Cancelled", deadlettered: "Put with the dead letters",
};
const ENDS = ["completed", "failed", "cancelled", "deadlettered"];
const ACTIONS = [
  ["Pause", "pause", (job) => ["queued", "downloading"].includes(job.status)],
  ["Resume", "resume", (job) => job.status === "paused"],
  ["Retry", "retry", (job) => ["failed", "cancelled"].includes(job.status)],
];

export async function jobView(session, id) {
  let job = await get(`/jobs/${id}`);
  const progress = bar("Progress", 0, 1);
  const far = el("p", { class: "hint" });
  const top = el("div");
  const map = el("div");
  const history = el("ol", { class: "timeline" });
  const buttons = el("div", { class: "row actions" });
  const seen = new Set();
  let isTold = false;
  let drawn = "";
  // A colour stays with its agent for as long as the view is open.
  const agents = [];
  let parts = null;
  let waitsFor = null;
  let lookedAt = 0;
  let looking = null;

  function draw() {
    const { progress: now } = job;
    setBar(progress, job.status === "completed" ? 1 : now.bytes, job.status === "completed" ? 1 : now.bytesTotal ?? 1);
    far.textContent = [now.bytesTotal === null ? size(now.bytes) : `${size(now.bytes)} of ${size(now.bytesTotal)}`, now.partsTotal ? `${now.partsDone} of ${now.partsTotal} parts` : "",
      isFinal(job) ? "" : rate(now.bytesPerSecond), isFinal(job) || now.etaSeconds === null ? "" : `${span(now.etaSeconds)} left`].filter(Boolean).join(" · ");
    // While bytes alone move, buttons keep the focus, a selection stays, and no alert is told again.
    const rest = JSON.stringify({ ...job, progress: null });
    if (rest === drawn) return;
    drawn = rest;
    top.replaceChildren(
      job.error ? el("div", { class: "problem", role: "alert" }, el("p", {}, el("strong", {}, job.error.code), ` ${job.error.message}`), el("p", {}, ADVICE[job.error.fault] ?? "")) : "",
      facts([
        ["Status", status(job.status)], ["Source", job.url], ["In the bucket", job.result ? `${job.result.bucket}/${job.result.key}` : job.destination.key],
        ["SHA-256", job.result?.sha256], ["CRC-64/NVME", job.result?.crc64nvme], ["Attempt", job.attempt > 1 ? String(job.attempt) : null],
        ["Handed back", job.requeues ? (job.requeues === 1 ? "once" : `${job.requeues} times`) : null], ["Agents", job.agents.join(", ")], ["Priority", job.priority],
        ["Asked for", moment(job.createdAt)], ["Ended", moment(job.completedAt)], ["Tries again", job.status === "queued" ? moment(job.nextAttemptAt) : null],
        ["Correlation id", job.correlationId],
      ]));
    keepingFocus(buttons, () => buttons.replaceChildren(
      job.status === "completed" ? el("button", { class: "main", type: "button", onclick: download }, "Download") : "",
      job.status === "completed" ? el("button", { type: "button", onclick: receipt }, "Receipt") : "",
      ...(session.scopes.includes("write") ? ACTIONS.filter(([, , fits]) => fits(job)).map(([text, verb]) => el("button", { type: "button", onclick: () => act(() => post(`/jobs/${id}/${verb}`)) }, text)) : []),
      session.scopes.includes("write") && !isFinal(job) ? el("button", { type: "button", onclick: () => act(() => ask("DELETE", `/jobs/${id}`)) }, "Cancel") : ""));
  }

  async function act(work) {
    try {
      job = await work();
      notice("");
      draw();
    } catch (error) {
      notice(error.message, "bad");
    }
  }

  async function download() {
    try {
      const link = await get(`/jobs/${id}/download?json=1`);
      location.assign(link.url);
    } catch (error) {
      notice(error.message, "bad");
    }
  }

  async function receipt() {
    try {
      const text = JSON.stringify(await get(`/jobs/${id}/receipt`), null, 2);
      const link = el("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: `${id}-receipt.json` });
      link.click();
      URL.revokeObjectURL(link.href);
    } catch (error) {
      notice(error.message, "bad");
    }
  }

  function tell(event) {
    if (seen.has(event.seq)) return;
    seen.add(event.seq);
    isTold = ENDS.includes(event.event);
    const { agent, code, message, attempt, setback } = event.payload;
    const more = [attempt ? `attempt ${attempt}` : "", agent, code, message, setback ? `after ${setback}` : ""].filter(Boolean).join(" · ");
    history.append(el("li", {}, el("time", { datetime: event.ts }, clock(event.ts)), el("strong", {}, WORDS[event.event] ?? event.event), more ? el("span", { class: "hint" }, ` ${more}`) : ""));
  }

  async function onEvent(event) {
    if (event.event === "progress") {
      job.progress = { ...job.progress, ...event.payload };
      draw();
      if (job.progress.partsDone !== parts?.partsDone) lookSoon();
      return;
    }
    tell(event);
    await read();
  }

  async function read() {
    job = await get(`/jobs/${id}`).catch(() => job);
    draw();
    drawParts();
    lookSoon();
  }

  // Who has what is asked for when something may have changed it, and not more often than that.
  function lookSoon() {
    looking ??= setTimeout(look, Math.max(0, lookedAt + PARTS_MS - Date.now()));
  }

  async function look() {
    looking = null;
    lookedAt = Date.now();
    parts = await get(`/jobs/${id}/parts`).catch(() => parts);
    drawParts();
  }

  function drawParts() {
    const named = parts ? [...parts.brought, ...parts.toCome].map((one) => one.agent) : [];
    for (const agent of named.filter(Boolean).sort()) if (!agents.includes(agent)) agents.push(agent);
    drawMap(map, job, parts, agents, waitsFor);
  }

  draw();
  drawParts();
  lookSoon();
  const stop = follow(`/jobs/${id}/events`, onEvent, { onState: (isOpen) => isOpen || isFinal(job) || read(), isOver: () => isTold && isFinal(job) });
  const timer = session.role === "operator" ? setInterval(async () => {
    if (!["queued", "paused"].includes(job.status) || document.hidden) return;
    waitsFor = (await get(`/internal/jobs/${id}/state`).catch(() => null))?.waitsFor ?? null;
    drawParts();
  }, POLL_MS) : null;
  const content = el("div", {}, el("h1", {}, nameOf(job)), progress, far, buttons, top, el("h2", {}, "Parts"), map, el("h2", {}, "History"), history);
  return { content, stop: () => { stop(); clearInterval(timer); clearTimeout(looking); } };
}

// A cell is a part, or some parts where there are many: of them it shows one that is still to come, where there is any.
function drawMap(place, job, parts, agents, waitsFor) {
  const done = parts?.partsDone ?? job.progress.partsDone;
  const known = parts?.partsTotal ?? job.progress.partsTotal;
  const total = known ?? (job.status === "completed" ? 1 : done);
  if (!total) {
    place.replaceChildren(el("p", { class: "hint" }, waitsFor ?? (isFinal(job) ? "It ended before there were any." : "Known when the file has been looked at.")));
    return;
  }
  const owners = whose(job, parts, total);
  const each = Math.ceil(total / CELLS_MAX);
  const color = (one) => (one.agent ? `agent-${agents.indexOf(one.agent) % COLORS}${one.isIn ? "" : " waits"}` : one.isIn ? "done" : "");
  const cells = [];
  for (let at = 0; at < total; at += each) {
    const some = owners.slice(at, at + each);
    const shown = some.find((one) => !one.isIn && one.agent) ?? some.find((one) => !one.isIn) ?? some[0];
    const numbers = some.length > 1 ? `parts ${at + 1}-${at + some.length}` : `part ${at + 1}`;
    cells.push(el("span", { class: color(shown), title: `${numbers}: ${shown.isIn ? "in the bucket" : "to come"}${shown.agent ? `, by ${shown.agent}` : ""}` }));
  }
  const count = (agent, isIn) => owners.filter((one) => one.agent === agent && one.isIn === isIn).length;
  const told = agents.map((agent) => ({ agent, brought: count(agent, true), left: count(agent, false) })).filter((one) => one.brought || one.left);
  const unnamed = count(null, true);
  const said = [
    ...told.map(({ agent, brought, left }) => `${brought} by ${agent}${left ? `, which is to bring ${left}` : ""}`),
    unnamed && told.length ? `${unnamed} by agents that are not known` : "",
  ].filter(Boolean).join("; ");
  const mark = (one) => el("i", { class: color(one) });
  place.replaceChildren(
    el("div", { class: "map", role: "img", "aria-label": `${done}${known ? ` of ${total}` : ""} parts are in the bucket${said ? `: ${said}` : ""}` }, cells),
    el("ul", { class: "legend" },
      told.map(({ agent, brought, left }) => el("li", {}, el("strong", {}, agent), ": ", mark({ agent, isIn: true }), `${brought} brought${which(parts, agent)}`, left ? [", ", mark({ agent, isIn: false }), `${left} to come`] : "")),
      unnamed ? el("li", {}, mark({ agent: null, isIn: true }), `${unnamed} in the bucket${which(parts, null)}`) : "",
      each > 1 ? el("li", {}, `a square is ${each} parts of ${total}`) : ""));
}

// Of each part: whether it is in the bucket, and which agent brought it or is to. Of whom nothing is known is null.
function whose(job, parts, total) {
  const owners = Array.from({ length: total }, () => ({ agent: null, isIn: job.status === "completed" }));
  const put = (first, end, one) => owners.fill(one, first - 1, Math.min(end, total + 1) - 1);
  if (!parts) put(1, job.progress.partsDone + 1, { agent: null, isIn: true });
  for (const { agent, stripe } of parts?.toCome ?? []) put(stripe.firstPart, stripe.endPart, { agent, isIn: false });
  for (const { agent, numbers } of parts?.brought ?? []) {
    for (const [first, last = first] of numbers.split(",").map((run) => run.split("-").map(Number))) put(first, last + 1, { agent, isIn: true });
  }
  return owners;
}

// The numbers of an agent's parts, where they are few runs: who can not tell the colours apart reads them.
function which(parts, agent) {
  const runs = parts?.brought.find((one) => one.agent === agent)?.numbers.split(",") ?? [];
  return runs.length ? ` (${runs.slice(0, RUNS_TOLD).join(", ")}${runs.length > RUNS_TOLD ? ", …" : ""})` : "";
}
