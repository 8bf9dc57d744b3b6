// The server that served this page, and the names of what the page uses of it.
import { Client, type Message } from "@langchain/langgraph-sdk";

export type State = { messages: Message[] };

export const ASSISTANT = "desk";
export const API_URL = new URL("..", location.href.split("#")[0]).href.replace(/\/$/, "");

/** What every run of the page has: its stream can be joined again, and has the events of subgraphs. */
export const RUN_OPTIONS = {
  streamResumable: true,
  streamSubgraphs: true,
  onDisconnect: "continue",
} as const;
export const STREAM_MODES = ["values", "messages-tuple", "tasks"] as const;

const KEY = "desk:key";

export function savedKey(): string | undefined {
  return sessionStorage.getItem(KEY) ?? undefined;
}

export function saveKey(key: string): void {
  sessionStorage.setItem(KEY, key);
}

export function clientWith(apiKey: string | undefined): Client<State> {
  // Three retries of the SDK would show an unreachable server only after seconds.
  return new Client<State>({ apiUrl: API_URL, apiKey, callerOptions: { maxRetries: 1 } });
}

export function textOf(message: Pick<Message, "content">): string {
  if (typeof message.content === "string") return message.content;
  return message.content.map((part) => ("text" in part ? part.text : "")).join("");
}
