// The JavaScript client, unmodified, against the gateway at BASE_URL with its demo assistant `agent`.

import assert from "node:assert/strict";
import { before, test } from "node:test";

import { Client } from "@langchain/langgraph-sdk";

const ASSISTANT = "agent";
const steps = (n, sleep = 0, tag = "js") => ({ input: { steps: n, sleep, tag } });

let client;
let threadId;

before(() => {
  client = new Client({ apiUrl: process.env.BASE_URL, apiKey: process.env.API_KEY, callerOptions: { maxRetries: 0 } });
});

test.beforeEach(async () => {
  threadId = (await client.threads.create({ metadata: { by: "javascript" } })).thread_id;
});

// A run that is known to execute: its first values have come.
async function running() {
  const run = await client.runs.create(threadId, ASSISTANT, { ...steps(600, 0.05), streamResumable: true });
  for await (const part of client.runs.joinStream(threadId, run.run_id, { lastEventId: "-1" })) {
    if (part.event === "values") return run;
  }
  assert.fail("the run ended without a value");
}

test("creates a run and joins it", async () => {
  const run = await client.runs.create(threadId, ASSISTANT, steps(2));
  assert.equal(run.status, "pending");
  const values = await client.runs.join(threadId, run.run_id);
  assert.deepEqual(values.log, ["js:1", "js:2"]);
  assert.equal((await client.runs.get(threadId, run.run_id)).status, "success");
});

test("waits for a run", async () => {
  const values = await client.runs.wait(threadId, ASSISTANT, steps(1));
  assert.equal(values.done, 1);
});

test("streams a run: its metadata first, then each step in order", async () => {
  let created;
  const parts = [];
  const stream = client.runs.stream(threadId, ASSISTANT, {
    ...steps(3, 0.01),
    streamMode: ["values", "updates"],
    onRunCreated: (told) => (created = told),
  });
  for await (const part of stream) parts.push(part);
  assert.equal(parts[0].event, "metadata");
  assert.equal(parts[0].data.run_id, created.run_id);
  assert.equal(created.thread_id, threadId);
  const done = parts.filter((part) => part.event === "values").map((part) => part.data.done);
  assert.equal(done.at(-1), 3);
  assert.deepEqual(done, [...done].sort((a, b) => a - b));
});

test("re-joins a resumable stream from its last event and misses none", async () => {
  const run = await client.runs.create(threadId, ASSISTANT, { ...steps(5, 0.02), streamResumable: true });
  const all = [];
  for await (const part of client.runs.joinStream(threadId, run.run_id, { lastEventId: "-1" })) all.push(part);
  const withIds = all.filter((part) => part.id);
  const rest = [];
  const options = { lastEventId: withIds[1].id };
  for await (const part of client.runs.joinStream(threadId, run.run_id, options)) rest.push(part);
  assert.deepEqual(
    rest.filter((part) => part.id).map((part) => part.id),
    withIds.slice(2).map((part) => part.id),
  );
});

test("cancels a running run and waits until it has stopped", async () => {
  const run = await running();
  await client.runs.cancel(threadId, run.run_id, true);
  assert.equal((await client.runs.get(threadId, run.run_id)).status, "interrupted");
  assert.notEqual((await client.threads.get(threadId)).status, "busy");
});

test("rolls a run back: it is gone, and the thread is as before", async () => {
  await client.runs.wait(threadId, ASSISTANT, steps(1, 0, "kept"));
  const run = await running();
  await client.runs.cancel(threadId, run.run_id, true, "rollback");
  await assert.rejects(client.runs.get(threadId, run.run_id), /404/);
  assert.deepEqual((await client.threads.getState(threadId)).values.log, ["kept:1"]);
});

test("is refused a second run where the strategy is reject", async () => {
  const run = await running();
  const second = client.runs.create(threadId, ASSISTANT, { ...steps(1), multitaskStrategy: "reject" });
  await assert.rejects(second, /409/);
  await client.runs.cancel(threadId, run.run_id, true);
});

test("reads a thread's state, its history and its runs", async () => {
  await client.runs.wait(threadId, ASSISTANT, steps(1));
  assert.deepEqual((await client.threads.getState(threadId)).values.log, ["js:1"]);
  assert.deepEqual((await client.threads.getHistory(threadId))[0].values.log, ["js:1"]);
  assert.equal((await client.runs.list(threadId)).length, 1);
});

test("runs without a thread", async () => {
  const values = await client.runs.wait(null, ASSISTANT, steps(1));
  assert.deepEqual(values.log, ["js:1"]);
});
