// Queue, dead letters, agents, hosts, alerts and SLOs: read every two seconds while they are looked at.

import { ask, get, post } from "./api.js";
import { bar, cell, el, keepingFocus, moment, morph, nameOf, notice, rate, span, status, table } from "./show.js";

const POLL_MS = 2000;
const DEAD_MAX = 100;

// Reads again and again; what an older release of the API does not have is said, not hidden.
async function polled(title, draw) {
  const place = el("div");
  const once = async () => {
    const next = el("div", {}, await draw(once));
    keepingFocus(place, () => morph(place, next));
  };
  await once();
  const timer = setInterval(() => { if (!document.hidden) once().catch((error) => notice(error.message, "bad")); }, POLL_MS);
  return { content: el("div", {}, el("h1", {}, title), place), stop: () => clearInterval(timer) };
}

const act = (work, then) => async () => {
  try {
    await work();
    notice("");
    await then();
  } catch (error) {
    notice(error.message, "bad");
  }
};

const cards = (pairs) => el("dl", { class: "cards" }, pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));

export const queueView = (session) => polled("Queue", async (again) => {
  const queue = await get("/queue");
  const operates = session.role === "operator";
  return [
    queue.parked ? el("p", { class: "problem", role: "alert" }, `No job is started: ${queue.parked}`) : "",
    cards([["Waiting", String(Object.values(queue.depth).reduce((sum, depth) => sum + depth, 0))], ["Oldest waits", span(queue.oldestAgeSeconds) || "0 s"], ["Dead letters", String(queue.dlqDepth)]]),
    table("Waiting jobs by priority", [["Priority"], ["Waiting", "number"], ["State"], ...(operates ? [["Actions"]] : [])],
      ["high", "normal", "low"].map((priority) => {
        const isPaused = queue.paused.includes(priority);
        return el("tr", {}, cell(priority), cell(String(queue.depth[priority] ?? 0), "number"), cell(status(isPaused ? "paused" : "runs")),
          operates ? cell(el("button", { type: "button", "aria-label": `${isPaused ? "Resume" : "Pause"} ${priority}`, onclick: act(() => post(`/queue/${isPaused ? "resume" : "pause"}`, { priority }), again) }, isPaused ? "Resume" : "Pause")) : null);
      })),
  ];
});

export const deadView = (session) => polled("Dead letters", async (again) => {
  const { jobs, nextCursor } = await get(`/dlq?limit=${DEAD_MAX}`);
  if (!jobs.length) return [el("p", { class: "hint" }, "None: no job has run out of attempts.")];
  return [nextCursor ? el("p", { class: "hint" }, `The newest ${DEAD_MAX} of more; the command line has them all: rayhaul dlq.`) : "", table("Dead letters", [["Name"], ["Since", "wide"], ["Why"], ["Actions"]], jobs.map((job) => el("tr", { "data-key": job.id },
    cell(el("a", { href: `#/jobs/${job.id}`, title: job.url }, nameOf(job)), "name"), cell(moment(job.deadLetteredAt), "wide"),
    cell(job.error ? `${job.error.code}: ${job.error.message}` : ""),
    cell(session.scopes.includes("write") ? [
      el("button", { type: "button", "aria-label": `Replay ${nameOf(job)}`, onclick: act(() => post(`/dlq/${job.id}/replay`), again) }, "Replay"), " ",
      el("button", { type: "button", "aria-label": `Delete ${nameOf(job)}`, onclick: act(() => ask("DELETE", `/dlq/${job.id}`), again) }, "Delete")] : ""))))];
});

const absent = (error) => {
  if (error.status === 404) return null;
  throw error;
};

export const agentsView = () => polled("Agents", async (again) => {
  const [{ agents }, scaling] = await Promise.all([get("/agents"), get("/scaling?limit=20").catch(absent)]);
  return [agents.length ? table("Agents", [["Agent"], ["State"], ["Capacity"], ["Slots", "number"], ["Speed", "number wide"], ["Heard", "number wide"], ["Actions"]], agents.map((agent) => el("tr", { "data-key": agent.agent },
    cell(agent.agent), cell([status(agent.unfit ? "unfit" : agent.state), agent.unfit ? el("span", { class: "hint" }, ` ${agent.unfit}`) : ""]),
    cell([bar(`Capacity of ${agent.agent} in use`, agent.capacityPct, 100), el("span", { class: "hint" }, ` ${Math.round(agent.capacityPct)} %`)]),
    cell(`${agent.slotsUsed} of ${agent.slots}`, "number"), cell(rate(agent.bytesPerSecond), "number wide"), cell(`${span(agent.heartbeatAgeSeconds)} ago`, "number wide"),
    cell(agent.state === "online" ? el("button", { type: "button", "aria-label": `Drain ${agent.agent}`, onclick: act(() => post(`/agents/${encodeURIComponent(agent.agent)}/drain`), again) }, "Drain") : "")))) : el("p", { class: "hint" }, "No agent reports yet."),
    el("h2", {}, "Scaling decisions"), scaled(scaling)];
});

function scaled(scaling) {
  if (!scaling) return el("p", { class: "hint" }, "This release does not tell of scaling decisions.");
  if (!scaling.decisions.length) return el("p", { class: "hint" }, "None yet.");
  return table("Scaling decisions", [["When"], ["Agents there", "number"], ["Wanted", "number"], ["Why"], ["Load", "number"], ["Jobs waiting", "number wide"]], scaling.decisions.map((one) => el("tr", {},
    cell(moment(one.ts)), cell([String(one.online), coming(one)], "number"), cell(String(one.wanted), "number"), cell(one.reason.replaceAll("_", " ")),
    cell(one.loadPct === null ? "" : `${Math.round(one.loadPct)} %`, "number"), cell(String(one.jobsWaiting), "number wide"))));
}

function coming({ pending, draining }) {
  const more = [pending ? `${pending} coming` : "", draining ? `${draining} leaving` : ""].filter(Boolean).join(", ");
  return more ? el("span", { class: "hint" }, ` (${more})`) : null;
}

export const hostsView = () => polled("Hosts", async () => {
  const found = await get("/hosts").catch(absent);
  if (!found) return [el("p", { class: "hint" }, "This release does not tell of hosts.")];
  if (!found.hosts.length) return [el("p", { class: "hint" }, "No origin has been asked lately.")];
  return [table("Origin hosts", [["Host"], ["Connections", "number"], ["Speed", "number"], ["Jobs waiting", "number"], ["Backs off until"]], found.hosts.map((host) => el("tr", {},
    cell(host.host), cell(`${host.connections} of ${host.connectionsMax}`, "number"), cell(rate(host.bytesPerSecond), "number"), cell(String(host.jobsWaiting), "number"), cell(moment(host.backingOffUntil)))))];
});

const percent = (ratio) => (ratio === null || ratio === undefined ? "no data yet" : `${(ratio * 100).toFixed(3)} %`);

// Below zero the budget is spent more than once.
const budget = (left) => (left === null || left === undefined ? "" : left < 0 ? `spent ${(1 - left).toFixed(1)} times` : `${(left * 100).toFixed(0)} %`);
const RANKS = ["firing", "pending", "inactive"];
const worstFirst = (alerts) => [...alerts].sort((one, other) => RANKS.indexOf(one.state) - RANKS.indexOf(other.state));

export const healthView = () => polled("Alerts and SLOs", async () => {
  const [alerts, slo] = await Promise.all([get("/alerts").catch(absent), get("/slo").catch(absent)]);
  return [
    el("h2", {}, "Service level objectives"),
    slo ? table("Service level objectives", [["Objective"], ["Target", "number"], ["Now", "number"], ["Budget left", "number"], ["Over", "number wide"]], slo.slos.map((one) => el("tr", {},
      cell([el("div", {}, one.name), el("div", { class: "hint" }, one.summary ?? "")]), cell(percent(one.target), "number"), cell(percent(one.ratio), "number"),
      cell(budget(one.budgetLeft), one.budgetLeft < 0 ? "number spent" : "number"), cell(one.window ?? "", "number wide")))) : el("p", { class: "hint" }, "This release does not tell of SLOs."),
    el("h2", {}, "Alerts"),
    alerts ? table("Alerts", [["Alert"], ["State"], ["Severity"], ["Condition", "wide"]], worstFirst(alerts.alerts).map((alert) => el("tr", {}, cell(alert.name), cell(status(alert.state)), cell(alert.severity), cell(alert.condition, "wide")))) : el("p", { class: "hint" }, "This release does not tell of alerts."),
  ];
});
