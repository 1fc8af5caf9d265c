// One job: how far it is, who carries which parts, what happened to it, and what can be done.

import { follow, get, post, ask } from "./api.js";
import { bar, clock, el, facts, isFinal, keepingFocus, moment, nameOf, notice, rate, setBar, size, span, status } from "./show.js";

const CELLS_MAX = 600;
const POLL_MS = 1000;

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
      if (session.role !== "operator") drawMap(map, job, []);
      return;
    }
    tell(event);
    await read();
  }

  async function read() {
    job = await get(`/jobs/${id}`).catch(() => job);
    draw();
    drawMap(map, job, []);
  }

  draw();
  drawMap(map, job, []);
  const stop = follow(`/jobs/${id}/events`, onEvent, { onState: (isOpen) => isOpen || isFinal(job) || read(), isOver: () => isTold && isFinal(job) });
  const timer = session.role === "operator" ? setInterval(async () => {
    if (isFinal(job) || document.hidden) return;
    const state = await get(`/internal/jobs/${id}/state`).catch(() => null);
    if (state) drawMap(map, { ...job, progress: state.lastProgress ?? job.progress }, state.leases, state.partsDone, state.waitsFor);
  }, POLL_MS) : null;
  const content = el("div", {}, el("h1", {}, nameOf(job)), progress, far, buttons, top, el("h2", {}, "Parts"), map, el("h2", {}, "History"), history);
  return { content, stop: () => { stop(); clearInterval(timer); } };
}

// A cell is a part, or some parts where there are many. Without the leases only how many are done is known.
function drawMap(place, job, leases, partsDone = job.progress.partsDone, waitsFor = null) {
  const total = job.progress.partsTotal ?? (job.status === "completed" ? 1 : 0);
  if (!total) {
    place.replaceChildren(el("p", { class: "hint" }, waitsFor ?? (isFinal(job) ? "It ended before there were any." : "Known when the file has been looked at.")));
    return;
  }
  const done = job.status === "completed" ? total : partsDone;
  const each = Math.ceil(total / CELLS_MAX);
  const agents = [...new Set(leases.map((lease) => lease.agent))];
  const cells = [];
  let before = done - leases.reduce((sum, lease) => sum + (lease.progress?.partsDone ?? 0), 0);
  const kinds = Array(total).fill("");
  for (const lease of leases) {
    const color = `agent-${agents.indexOf(lease.agent) % 6}`;
    const here = lease.progress?.partsDone ?? 0;
    for (let number = lease.stripe.firstPart; number < Math.min(lease.stripe.endPart, total + 1); number += 1) kinds[number - 1] = number < lease.stripe.firstPart + here ? "done" : `${color} waits`;
  }
  if (!leases.length) kinds.fill("done", 0, done);
  else for (let at = 0; at < total && before > 0; at += 1) if (!kinds[at]) { kinds[at] = "done"; before -= 1; }
  for (let at = 0; at < total; at += each) {
    const some = kinds.slice(at, at + each);
    cells.push(el("span", { class: some.every((kind) => kind === "done") ? "done" : some.find((kind) => kind && kind !== "done") ?? "" }));
  }
  place.replaceChildren(
    el("div", { class: "map", role: "img", "aria-label": `${done} of ${total} parts are in the bucket${agents.length ? `, carried by ${agents.join(", ")}` : ""}` }, cells),
    el("p", { class: "legend" }, el("span", {}, el("i", { class: "done" }), "in the bucket"), agents.map((agent, index) => el("span", {}, el("i", { class: `agent-${index % 6} waits` }), `to come by ${agent}`)),
      each > 1 ? el("span", {}, `a square is ${each} parts of ${total}`) : ""));
}
