// Calls each method of @langchain/langgraph-sdk once and prints, as JSON, which requests it sends. Nothing is
// sent: `fetch` and `WebSocket` are replaced. `tools/langgraph_api.py` shows the result, `langgraph_js.json`.
//
//     node tools/langgraph_js.mjs FOLDER    the package is resolved from FOLDER

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const require = createRequire(resolve(process.argv[2], "package.json"));
const entry = require.resolve("@langchain/langgraph-sdk");
const { version } = JSON.parse(readFileSync(resolve(entry.split("/dist/")[0], "package.json")));
const { Client } = require("@langchain/langgraph-sdk");

const GROUPS = ["assistants", "threads", "runs", "crons", "store"];
const ASSISTANT = "{assistant_id}", THREAD = "{thread_id}", RUN = "{run_id}", CRON = "{cron_id}";
const NEW_RUN = { input: {} };
const ARGUMENTS = {
  "assistants.get": [[ASSISTANT]],
  "assistants.getGraph": [[ASSISTANT]],
  "assistants.getSchemas": [[ASSISTANT]],
  "assistants.getSubgraphs": [[ASSISTANT], [ASSISTANT, { namespace: "{namespace}" }]],
  "assistants.create": [[{ graphId: "agent" }]],
  "assistants.update": [[ASSISTANT, {}]],
  "assistants.delete": [[ASSISTANT]],
  "assistants.getVersions": [[ASSISTANT]],
  "assistants.setLatest": [[ASSISTANT, 1]],
  "threads.get": [[THREAD]],
  "threads.copy": [[THREAD]],
  "threads.update": [[THREAD, {}]],
  "threads.delete": [[THREAD]],
  "threads.prune": [[[THREAD]]],
  "threads.getState": [[THREAD], [THREAD, "{checkpoint_id}"], [THREAD, { thread_id: THREAD, checkpoint_ns: "" }]],
  "threads.updateState": [[THREAD, { values: {} }]],
  "threads.patchState": [[THREAD, {}]],
  "threads.getHistory": [[THREAD]],
  "threads.joinStream": [[THREAD]],
  "threads.stream": [[THREAD, { assistantId: ASSISTANT }], [THREAD, { assistantId: ASSISTANT, transport: "websocket" }]],
  "runs.stream": [[THREAD, ASSISTANT, NEW_RUN], [null, ASSISTANT, NEW_RUN]],
  "runs.create": [[THREAD, ASSISTANT, NEW_RUN], [null, ASSISTANT, NEW_RUN]],
  "runs.createBatch": [[[{ assistantId: ASSISTANT }]]],
  "runs.wait": [[THREAD, ASSISTANT, NEW_RUN], [null, ASSISTANT, NEW_RUN]],
  "runs.list": [[THREAD]],
  "runs.get": [[THREAD, RUN]],
  "runs.cancel": [[THREAD, RUN]],
  "runs.cancelMany": [[{ threadId: THREAD, runIds: [RUN] }]],
  "runs.join": [[THREAD, RUN]],
  "runs.joinStream": [[THREAD, RUN]],
  "runs.delete": [[THREAD, RUN]],
  "crons.createForThread": [[THREAD, ASSISTANT, { schedule: "0 0 * * *" }]],
  "crons.create": [[ASSISTANT, { schedule: "0 0 * * *" }]],
  "crons.update": [[CRON, {}]],
  "crons.delete": [[CRON]],
  "store.putItem": [[["a"], "key", {}]],
  "store.getItem": [[["a"], "key"]],
  "store.deleteItem": [[["a"], "key"]],
  "store.searchItems": [[["a"]]],
};

let sent = [];
const note = (method, url) => {
  const path = decodeURIComponent(new URL(url).pathname);
  const request = `${method} ${path}`;
  if (!sent.includes(request)) sent.push(request);
};

async function answer(url, init) {
  note(init?.method ?? "GET", String(url));
  const body = String(url).includes("/commands") ? { type: "success", id: 1, result: {} } : {};
  return new Response(JSON.stringify(body), { headers: { "content-type": "application/json" } });
}

globalThis.fetch = answer;
globalThis.WebSocket = class extends EventTarget {
  constructor(url) {
    super();
    note("WEBSOCKET", String(url));
    queueMicrotask(() => this.dispatchEvent(new Event("error")));
  }
  send() {}
  close() {}
};

const within = (promise, ms) => Promise.race([promise, new Promise((done) => setTimeout(done, ms))]);

async function exhaust(called) {
  if (called?.run?.start !== undefined) {
    // A thread's stream: it sends nothing before a command.
    called.run.start({ input: {} }).catch(() => undefined);
    await new Promise((done) => setTimeout(done, 300));
    await within(called.close?.(), 300);
    return;
  }
  const value = await called;
  if (value?.[Symbol.asyncIterator] !== undefined) for await (const _ of value) return;
}

const calls = {};
for (const group of GROUPS) {
  const client = new Client({ apiUrl: "http://gateway", callerOptions: { maxRetries: 0, fetch: answer } });
  const names = Object.getOwnPropertyNames(Object.getPrototypeOf(client[group])).filter((name) => name !== "constructor");
  for (const name of names.sort()) {
    const method = `${group}.${name}`;
    sent = [];
    for (const given of ARGUMENTS[method] ?? [[]]) {
      try {
        await within(exhaust(client[group][name](...given)), 2000);
      } catch (error) {
        if (sent.length === 0) throw new Error(`${method} sends nothing: ${error}`);
      }
    }
    calls[method] = sent;
  }
}
process.stdout.write(`${JSON.stringify({ version, calls }, null, 2)}\n`);
process.exit(0);
