// A conversation that survives a reload: its thread's id is in the address, the rest is asked of the gateway.

import { events } from "./events.js";

const API = "api";
const ASSISTANT = "chat";
const MODES = ["values", "messages"];
const RETRIES = 5;
// How the answer is written, for trying things out: /?words=45&pause=0.01
const OPTIONS = Object.fromEntries([...new URLSearchParams(location.search)].map(([name, value]) => [name, Number(value)]));

const element = (id) => document.getElementById(id);
const [list, status, form, text, send, stop] = ["messages", "status", "form", "text", "send", "stop"].map(element);

let threadId = location.hash.slice(1) || null;
let runId = null; // of the run that is watched
let messages = [];
let answer = ""; // what the run has said so far

async function call(path, options = {}) {
  const response = await fetch(`${API}${path}`, {
    ...options,
    headers: { "content-type": "application/json", ...options.headers },
  });
  if (response.ok) return response;
  const { detail } = await response.json().catch(() => ({}));
  throw Object.assign(new Error(`${response.status}: ${JSON.stringify(detail ?? "no detail")}`), response);
}

const post = (path, body) => call(path, { method: "POST", body: body && JSON.stringify(body) });

function draw() {
  const shown = answer ? [...messages, { role: "assistant", content: answer }] : messages;
  list.replaceChildren(
    ...shown.map(({ role, content }) => {
      const item = document.createElement("li");
      item.className = role;
      item.textContent = content;
      return item;
    }),
  );
  send.hidden = runId !== null;
  stop.hidden = runId === null;
  document.body.dataset.busy = String(runId !== null);
}

// One run, from `response` to its end. A body that breaks is asked for again, on whichever worker answers.
async function watch(id, response) {
  runId = id;
  answer = "";
  draw();
  let last = "-1";
  for (let retry = 0; ; retry += 1) {
    try {
      for await (const { event, data, id: eventId } of events(response)) {
        retry = 0;
        if (eventId) last = eventId;
        if (event === "messages") answer += data.content;
        if (event === "values" && data?.messages) take(data.messages);
        if (event === "error") status.textContent = `${data.error}: ${data.message}`;
        draw();
      }
    } catch (broken) {
      status.textContent = `reconnecting (${broken.message})`;
    }
    const run = await (await call(`/threads/${threadId}/runs/${id}`)).json().catch(() => null);
    if (run && run.status !== "pending" && run.status !== "running") break;
    if (retry === RETRIES) throw new Error("the run goes on, but its stream cannot be reached: reload to try again");
    await new Promise((resolve) => setTimeout(resolve, 200 * 2 ** retry));
    response = await rejoin(id, last);
  }
  status.textContent = "";
  await load();
}

// What is saved on the way holds a part of the answer, and the words go on from there.
function take(saved) {
  const last = saved.at(-1);
  const answered = last?.role === "assistant";
  messages = answered ? saved.slice(0, -1) : saved;
  answer = answered ? last.content : "";
}

const rejoin = (id, last) =>
  call(`/threads/${threadId}/runs/${id}/stream?stream_mode=${encodeURIComponent(JSON.stringify(MODES))}`, {
    headers: { "last-event-id": last },
  });

// What the thread holds, without a run that goes on.
async function load() {
  const { values } = await (await call(`/threads/${threadId}/state`)).json();
  messages = values?.messages ?? [];
  [runId, answer] = [null, ""];
  draw();
}

async function ask(question) {
  if (threadId === null) {
    threadId = (await (await post("/threads", {})).json()).thread_id;
    history.replaceState(null, "", `${location.search}#${threadId}`);
  }
  const response = await post(`/threads/${threadId}/runs/stream`, {
    assistant_id: ASSISTANT,
    input: { text: question, ...OPTIONS },
    stream_mode: MODES,
    stream_resumable: true,
    multitask_strategy: "reject",
  });
  if (text.value === question) form.reset(); // only now: a question that is refused stays where it was typed
  await watch(response.headers.get("content-location").split("/").at(-1), response);
}

// After a reload: the run that goes on is told again from its first event.
async function attach() {
  await load();
  const runs = await (await call(`/threads/${threadId}/runs?limit=1`)).json();
  const going = runs.find((run) => run.status === "pending" || run.status === "running");
  if (going) await watch(going.run_id, await rejoin(going.run_id, "-1"));
}

const tell = (error) => {
  [runId, answer] = [null, ""];
  status.textContent = error.message;
  draw();
};

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (send.disabled || runId !== null) return; // Enter sends as well
  send.disabled = true;
  ask(text.value)
    .catch(tell)
    .finally(() => {
      send.disabled = false;
    });
});

stop.addEventListener("click", () => {
  status.textContent = "stopping";
  post(`/threads/${threadId}/runs/${runId}/cancel`).catch(tell);
});

draw();
if (threadId !== null) attach().catch(tell);
document.body.dataset.ready = "true";
