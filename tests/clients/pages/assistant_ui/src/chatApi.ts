// The client of assistant-ui's quickstart, and its thread list.
import type { RemoteThreadListAdapter } from "@assistant-ui/react";
import type { LangChainMessage } from "@assistant-ui/react-langgraph";
import { Client } from "@langchain/langgraph-sdk";
import { createAssistantStream } from "assistant-stream";

const apiUrl = new URL("..", location.href.split("#")[0]).href.replace(/\/$/, "");
export const ASSISTANT_ID = new URLSearchParams(location.search).get("assistant") ?? "chat";

export type State = { messages: LangChainMessage[] };

export const client = new Client<State>({ apiUrl });

export const load = async (externalId: string) => {
  const state = await client.threads.getState(externalId);
  return { messages: state.values.messages ?? [], interrupts: state.tasks[0]?.interrupts };
};

/**
 * The checkpoint that an edited or regenerated message begins with: its messages are exactly `parentMessages`. A function
 * has no checkpoint between a question and its answer: its run is repeated from the state before the question.
 */
export const getCheckpointId = async (threadId: string, parentMessages: LangChainMessage[]) => {
  const history = await client.threads.getHistory(threadId);
  const at = (wanted: LangChainMessage[]) =>
    history.find(({ values: { messages = [] } }) => {
      const same = (message: LangChainMessage, index: number) => message.id && message.id === messages[index]?.id;
      return messages.length === wanted.length && wanted.every(same);
    });
  const state = at(parentMessages) ?? at(parentMessages.slice(0, -1));
  return state?.checkpoint.checkpoint_id ?? null;
};

export const threadListAdapter: RemoteThreadListAdapter = {
  async list() {
    const threads = await client.threads.search({ limit: 50 });
    return {
      threads: threads.map((thread) => ({
        status: "regular" as const,
        remoteId: thread.thread_id,
        externalId: thread.thread_id,
        title: thread.metadata?.["title"] as string | undefined,
      })),
    };
  },
  async initialize() {
    const thread = await client.threads.create();
    return { remoteId: thread.thread_id, externalId: thread.thread_id };
  },
  async fetch(remoteId) {
    const thread = await client.threads.get(remoteId);
    const title = thread.metadata?.["title"] as string | undefined;
    return { status: "regular", remoteId, externalId: remoteId, title };
  },
  async rename(remoteId, title) {
    await client.threads.update(remoteId, { metadata: { title } });
  },
  async delete(remoteId) {
    await client.threads.delete(remoteId);
  },
  async archive() {},
  async unarchive() {},
  async generateTitle(remoteId, messages) {
    const first = messages[0]?.content[0];
    const title = first?.type === "text" ? first.text : "New Chat";
    await client.threads.update(remoteId, { metadata: { title } });
    return createAssistantStream((controller) => controller.appendText(title));
  },
};
