// The server that served this page, and what the page reads of it.
import { Client } from "@langchain/langgraph-sdk";

const apiUrl = new URL("..", location.href.split("#")[0]).href.replace(/\/$/, "");
export const ASSISTANT = new URLSearchParams(location.search).get("assistant") ?? "chat";
// Its default of four retries shows an unreachable server only after seconds.
export const client = new Client({ apiUrl, callerOptions: { maxRetries: 1 } });

/** A message of the state of a thread, or of the stream. */
export type Message = { id?: string; type: string; content: unknown };
export type State = { messages: Message[] };

export function textOf(message: Message): string {
  if (typeof message.content === "string") return message.content;
  const blocks = (message.content ?? []) as { text?: string }[];
  return blocks.map((block) => block.text ?? "").join("");
}

export function question(text: string): Message {
  return { type: "human", id: crypto.randomUUID(), content: text };
}
