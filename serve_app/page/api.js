// The API, asked with the page's cookie. Every refusal becomes a Refused with the sentence the API gave; where no key is
// held any more, the window is told so by the event `keyless`.

export class Refused extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

export async function ask(method, path, body, more = {}) {
  const headers = { "X-Rayhaul-Page": "1", ...more };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refused(0, "unreachable", "The cluster does not answer. Is it running?");
  }
  const text = await answer.text();
  const found = text ? JSON.parse(text) : null;
  if (!answer.ok) {
    // Later, so that it has the last word, after what the caller says of the error.
    if (answer.status === 401) setTimeout(() => dispatchEvent(new Event("keyless")));
    const wrong = (found?.errors ?? []).map((error) => `${error.field}: ${error.message}`).join("; ");
    throw new Refused(answer.status, found?.code ?? "internal", [found?.detail ?? answer.statusText, wrong].filter(Boolean).join(" "));
  }
  return found;
}

export const get = (path) => ask("GET", path);
export const post = (path, body) => ask("POST", path, body);

// Sent again after a lost answer, the same request makes no second job.
export const submit = (jobs) =>
  ask("POST", "/jobs/batch", { jobs }, { "Idempotency-Key": `page-${crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`}` });

const NAMES = [
  "created", "metadata", "started", "progress", "uploading", "completed", "failed", "requeued", "paused", "resumed",
  "cancelled", "deadlettered",
];

const REOPEN_MS = 3000;

// The browser comes back by itself when a stream ends, with the id of the last event it has. It does not where it is
// answered no stream (HTML 9.2.3, "fail the connection"): after 429, 502 or 503 a new one is opened, with the id in the
// query as it sends no header. After 204 all was told, which `isOver` knows; a retry begins it again.
export function follow(path, onEvent, { onState, isOver } = {}) {
  let source = null;
  let timer = null;
  let last = "";
  let isLeft = false;

  function open() {
    source = new EventSource(last ? `${path}?last_event_id=${last}` : path);
    for (const name of NAMES) source.addEventListener(name, (message) => {
      last = message.lastEventId || last;
      onEvent(JSON.parse(message.data));
    });
    source.onopen = () => onState?.(true);
    source.onerror = () => {
      onState?.(false);
      if (source.readyState === EventSource.CLOSED) later();
    };
  }

  function later() {
    timer = setTimeout(async () => {
      if (isOver?.()) return later();
      // A stream does not tell why it is refused: that nobody is signed in any more is found out by this.
      await get("/session").catch(() => {});
      if (!isLeft) open();
    }, REOPEN_MS * (0.5 + Math.random()));
  }

  open();
  return () => {
    isLeft = true;
    clearTimeout(timer);
    source.close();
  };
}
