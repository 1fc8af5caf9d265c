// Who is here, which view is shown, and what ends when it is left.

import { ask, get, post } from "./api.js";
import { el, focusHeading, notice } from "./show.js";
import { jobView } from "./job.js";
import { jobsView } from "./jobs.js";
import { agentsView, deadView, healthView, hostsView, queueView } from "./operate.js";

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const who = document.getElementById("who");

// [pattern, title, view, in the navigation, for operators only]
const VIEWS = [
  [/^#\/$/, "Jobs", jobsView, "#/", false],
  [/^#\/jobs\/([\w-]+)$/, "Job", jobView, null, false],
  [/^#\/queue$/, "Queue", queueView, "#/queue", false],
  [/^#\/dead$/, "Dead letters", deadView, "#/dead", false],
  [/^#\/agents$/, "Agents", agentsView, "#/agents", true],
  [/^#\/hosts$/, "Hosts", hostsView, "#/hosts", true],
  [/^#\/health$/, "Alerts and SLOs", healthView, "#/health", true],
];

let session = null;
let leave = () => {};
let shows = 0;

function signIn(why = "") {
  nav.hidden = true;
  who.replaceChildren();
  const field = el("input", { id: "key", type: "password", autocomplete: "current-password", required: true, spellcheck: "false" });
  const form = el("form", { class: "sign-in" },
    el("h1", {}, "Sign in"),
    // Password managers ask for a name to keep a secret under.
    el("input", { type: "text", autocomplete: "username", value: "rayhaul", hidden: true, readonly: true, "aria-hidden": "true", tabindex: "-1" }),
    el("div", {}, el("label", { for: "key" }, "API key"), field,
      el("p", { class: "hint" }, "Of the operator: in the file api-key of the data directory. Others: rayhaul keys create.")),
    el("button", { class: "main", type: "submit" }, "Sign in"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      session = await post("/session", { key: field.value.trim() });
      notice("");
      await show();
      focusHeading();
    } catch (error) {
      notice(error.status === 401 ? "This is no valid API key." : error.message, "bad");
      field.select();
    }
  });
  main.replaceChildren(form);
  notice(why);
  field.focus();
}

function leaveView() {
  leave();
  leave = () => {};
  shows += 1;
}

function signedOut(why) {
  leaveView();
  session = null;
  signIn(why);
}

async function signOut() {
  leaveView();
  await ask("DELETE", "/session").catch(() => {});
  signedOut("You are signed out.");
}

function drawFrame(current) {
  nav.hidden = false;
  nav.replaceChildren(...VIEWS.filter(([, , , link, operators]) => link && (!operators || session.role === "operator"))
    .map(([, title, , link]) => el("a", { href: link, "aria-current": link === current ? "page" : null }, title)));
  who.replaceChildren(el("span", {}, session.userId), el("button", { type: "button", onclick: signOut }, "Sign out"));
}

async function show() {
  leaveView();
  const mine = shows;
  const path = location.hash || "#/";
  const found = VIEWS.find(([pattern]) => pattern.test(path)) ?? VIEWS[0];
  drawFrame(found[3]);
  document.title = `${found[1]} · Rayhaul`;
  try {
    const { content, stop } = await found[2](session, ...(path.match(found[0])?.slice(1) ?? []));
    // Another one was asked for while this one was read.
    if (mine !== shows) {
      stop?.();
      return;
    }
    main.replaceChildren(content);
    leave = stop ?? (() => {});
    document.title = `${main.querySelector("h1")?.textContent ?? found[1]} · Rayhaul`;
  } catch (error) {
    if (mine === shows) failed(error);
  }
}

function failed(error) {
  main.replaceChildren(el("h1", {}, "This can not be shown"), el("p", {}, error.message), el("button", { type: "button", onclick: () => show().then(focusHeading) }, "Try again"));
}

// As a link it would be one to another view.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("keyless", () => session && signedOut("You are signed in no longer: the session is over, or its key is."));
addEventListener("hashchange", () => session && show().then(focusHeading));
get("/session").then((found) => { session = found; show(); }).catch((error) => (error.status === 401 ? signIn() : failed(error)));
