// The list of jobs, live, and the form that makes new ones.

import { follow, get, submit } from "./api.js";
import { bar, cell, el, isFinal, nameOf, notice, rate, setBar, size, span, status, table } from "./show.js";

const PAGE = 100;
// Jobs that changed at once beyond this are read as a list, not one by one.
const ONE_BY_ONE_MAX = 8;
// Beyond, the list is read anew from its top: a page that is looked at for days does not grow for days.
const ROWS_MAX = 2000;
const HEADS = [["Name"], ["Status"], ["Progress"], ["Size", "number wide"], ["Speed", "number wide"], ["Left", "number wide"]];

export async function jobsView(session) {
  const rows = new Map();
  const body = el("tbody");
  const filter = el("select", { id: "filter" }, ["", "queued", "downloading", "uploading", "completed", "failed", "paused", "cancelled"]
    .map((word) => el("option", { value: word }, word || "all")));
  const more = el("button", { type: "button", hidden: true }, "Older jobs");
  const empty = el("p", { class: "hint", hidden: true });
  const list = table("Jobs", HEADS, []);
  list.querySelector("tbody").replaceWith(body);
  let cursor = null;
  let oldest = "";
  let dirty = new Set();
  let pending = null;

  const matches = (job) => !filter.value || job.status === filter.value;

  async function load(fresh) {
    const query = new URLSearchParams({ limit: PAGE });
    if (filter.value) query.set("status", filter.value);
    if (!fresh && cursor) query.set("cursor", cursor);
    const page = await get(`/jobs?${query}`);
    if (fresh) {
      rows.clear();
      body.replaceChildren();
    }
    for (const job of page.jobs) put(job, true);
    cursor = page.nextCursor;
    oldest = page.jobs.at(-1)?.id ?? "";
    more.hidden = !cursor;
    empty.hidden = rows.size > 0;
    empty.textContent = filter.value ? `No ${filter.value} jobs.` : session.scopes.includes("write") ? "No jobs yet. Paste a URL above." : "No jobs yet.";
  }

  function put(job, atEnd) {
    const known = rows.get(job.id);
    if (!matches(job)) {
      known?.row.remove();
      rows.delete(job.id);
      return;
    }
    if (known) {
      known.job = job;
      draw(known);
      return;
    }
    // Ids are in the order of time. What changed and is older than all that is shown comes with the older ones.
    if (!atEnd && cursor && job.id < oldest) return;
    const below = atEnd ? null : [...body.children].find((row) => row.dataset.key < job.id);
    const made = { job, link: el("a", { href: `#/jobs/${job.id}`, title: job.url }), row: el("tr", { "data-key": job.id }), bar: bar(`Progress of ${nameOf(job)}`, 0, 1), cells: {} };
    made.cells = { name: cell(made.link, "name"), status: cell(""), bar: cell(made.bar), size: cell("", "number wide"), speed: cell("", "number wide"), left: cell("", "number wide") };
    made.row.append(...Object.values(made.cells));
    rows.set(job.id, made);
    draw(made);
    if (below) below.before(made.row);
    else body.append(made.row);
    empty.hidden = true;
  }

  function draw({ job, link, cells, bar: made }) {
    if (link.textContent !== nameOf(job)) link.textContent = nameOf(job);
    cells.status.replaceChildren(status(job.status), job.error && job.status === "failed" ? el("span", { class: "hint" }, ` ${job.error.code}`) : "");
    drawProgress(cells, made, job);
  }

  function drawProgress(cells, made, job) {
    const { bytes, bytesTotal, bytesPerSecond, etaSeconds } = job.progress;
    setBar(made, job.status === "completed" ? 1 : bytes, job.status === "completed" ? 1 : bytesTotal ?? (job.status === "downloading" ? null : 1));
    if (job.status === "queued" && !bytes) setBar(made, 0, 1);
    cells.size.textContent = bytesTotal === null ? "" : size(bytesTotal);
    cells.speed.textContent = isFinal(job) ? "" : rate(bytesPerSecond);
    cells.left.textContent = isFinal(job) ? "" : span(etaSeconds);
  }

  function onEvent(event) {
    const known = rows.get(event.jobId);
    if (event.event === "progress") {
      if (known) {
        known.job.progress = { ...known.job.progress, ...event.payload };
        queue(known);
      }
      return;
    }
    dirty.add(event.jobId);
    pending ??= setTimeout(() => refresh(), 150);
  }

  // Drawn once a frame, however many events came.
  let waiting = new Set();
  function queue(known) {
    if (!waiting.size) requestAnimationFrame(() => {
      for (const { job, cells, bar: made } of waiting) drawProgress(cells, made, job);
      waiting = new Set();
    });
    waiting.add(known);
  }

  async function refresh(isWhole = false) {
    const ids = isWhole ? [...rows.keys()] : [...dirty];
    dirty = new Set();
    pending = null;
    try {
      if (isWhole || ids.length > ONE_BY_ONE_MAX) {
        const query = new URLSearchParams({ limit: PAGE });
        if (filter.value) query.set("status", filter.value);
        const page = await get(`/jobs?${query}`);
        const there = new Set(page.jobs.map((job) => job.id));
        for (const job of page.jobs) put(job, false);
        // What has left the filter, or is further down, is asked for as long as it is few.
        for (const id of ids.filter((one) => rows.has(one) && !there.has(one)).slice(0, ONE_BY_ONE_MAX)) put(await get(`/jobs/${id}`), false);
      } else {
        for (const id of ids) put(await get(`/jobs/${id}`), false);
      }
      if (rows.size > ROWS_MAX) await load(true);
    } catch (error) {
      notice(error.message, "bad");
    }
  }

  // A stream that comes back without the id of an event begins at now: what was missed is read.
  let wasBroken = false;
  function onState(isOpen) {
    notice(isOpen ? "" : "Live updates were interrupted; trying again.");
    if (isOpen && wasBroken) refresh(true);
    wasBroken = !isOpen;
  }

  const reload = (fresh) => load(fresh).catch((error) => notice(error.message, "bad"));
  filter.addEventListener("change", () => reload(true));
  more.addEventListener("click", () => reload(false));
  await load(true);
  const stop = follow("/events", onEvent, { onState });
  const content = el("div", {}, el("h1", {}, "Jobs"), session.scopes.includes("write") ? addForm() : null,
    el("div", { class: "row filter" }, el("div", {}, el("label", { for: "filter" }, "Show"), filter)), list, empty, more);
  return { content, stop: () => { stop(); clearTimeout(pending); } };
}

function addForm() {
  const urls = el("textarea", { id: "urls", required: true, placeholder: "https://files.example/data.tar", spellcheck: "false" });
  const priority = el("select", { id: "priority" }, ["normal", "high", "low"].map((word) => el("option", { value: word }, word)));
  const checksum = el("input", { id: "checksum", placeholder: "sha256:…", spellcheck: "false" });
  const send = el("button", { class: "main", type: "submit" }, "Fetch into the bucket");
  const form = el("form", { class: "add" },
    el("div", {}, el("label", { for: "urls" }, "URLs, one a line"), urls),
    el("div", { class: "row" },
      el("div", {}, el("label", { for: "priority" }, "Priority"), priority),
      el("div", {}, el("label", { for: "checksum" }, "Checksum (of one file)"), checksum), send));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const wanted = urls.value.split(/\s+/).filter(Boolean);
    if (checksum.value.trim() && wanted.length > 1) {
      notice("A checksum is of one file: give one URL.", "bad");
      return;
    }
    send.disabled = true;
    try {
      await submit(wanted.map((url) => ({ url, priority: priority.value, ...(checksum.value.trim() ? { checksum: checksum.value.trim() } : {}) })));
      notice(wanted.length === 1 ? "The job is taken." : `${wanted.length} jobs are taken.`);
      form.reset();
    } catch (error) {
      notice(error.message, "bad");
    } finally {
      send.disabled = false;
      urls.focus();
    }
  });
  return form;
}
