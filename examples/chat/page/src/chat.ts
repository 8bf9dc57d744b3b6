// The conversation: `useStream`, and what it does not do: versions, and runs that other tabs have started.
import { useStream, useSubmissionQueue } from "@langchain/react";
import { useEffect, useRef, useState } from "react";
import { ASSISTANT, client, question, type Message, type State } from "./api";
import type { Thread } from "./threads";
import { useHistory } from "./versions";

/** After a submission the events of earlier runs are replayed, and `isLoading` is false for a moment. */
const REPLAYED_WITHIN = 1000; // ms

const FAILED = "The run failed. Edit the message, or send another one.";

export type Chat = ReturnType<typeof useChat>;

export type Options = { thread: Thread | undefined; onThreadId: (id: string) => void; onChange: () => void; rejoin: () => void };

export function useChat(threadId: string | null, { thread, onThreadId, onChange, rejoin }: Options) {
  const isAccepted = useRef(true); // the latest submission
  const onCreated = () => {
    isAccepted.current = true;
  };
  const stream = useStream<State>({ client, assistantId: ASSISTANT, threadId, onThreadId, onCreated });
  const queue = useSubmissionQueue(stream);
  const history = useHistory(threadId, stream.isLoading);
  const [chosen, choose] = useState<string>(); // a branch that is not the newest
  const [hidden, hide] = useState<Set<string | undefined>>(new Set()); // messages of other branches
  const quietSince = useRef(0);

  useEffect(() => {
    quietSince.current = performance.now();
    onChange();
  }, [stream.isLoading]);

  // The stream is closed while the thread is at rest. A run of another tab is found in the list of threads.
  useEffect(() => {
    if (!thread || stream.isLoading || stream.isThreadLoading || thread.readAt < quietSince.current + REPLAYED_WITHIN) return;
    const isBehind = thread.last !== null && history !== undefined && !history.known.has(thread.last);
    if (thread.status === "busy" || isBehind) rejoin();
  }, [thread]);

  const leaf = chosen ?? history?.newest;
  const streamed = (stream.messages as Message[]).filter((message) => !hidden.has(message.id));
  const messages = leaf === undefined ? streamed : history!.messagesAt(leaf);

  /** `refused` is called if the server has not accepted the run. */
  function submit(input: State | null, options: object, refused: () => void = () => {}) {
    isAccepted.current = false;
    const onError = () => {
      if (isAccepted.current) return; // the run has failed
      const ids = input?.messages.map((message) => message.id) ?? [];
      hide((others) => new Set([...others, ...ids]));
      refused();
    };
    return stream.submit(input as never, { ...options, onError });
  }

  /** Starts a run at an earlier state: another version of what followed it. */
  function fork(from: string, input: State | null, refused?: () => void) {
    const kept = new Set(history!.messagesAt(from).map((message) => message.id));
    const others = [...history!.known].filter((id) => !kept.has(id));
    hide(new Set(others));
    choose(undefined);
    return submit(input, { forkFrom: from }, refused);
  }

  return {
    messages,
    isLoading: stream.isLoading,
    isOpening: stream.isThreadLoading,
    error: stream.error ?? (thread?.status === "error" && !stream.isLoading ? FAILED : undefined),
    interrupt: stream.isLoading ? undefined : stream.interrupt,
    queue: queue.entries.map(({ id, values }) => ({ id, text: String((values as State).messages[0]?.content) })),
    dequeue: queue.cancel,
    choose: (state: string) => choose(history!.leafOf(state)),
    versionsOf: (message: Message) => history?.versionsOf(message, leaf),

    send(text: string, refused: () => void) {
      const input: State = { messages: [question(text)] };
      if (chosen !== undefined) return fork(chosen, input, refused);
      return submit(input, { multitaskStrategy: "enqueue" }, refused);
    },

    edit: (before: string, text: string) => fork(before, { messages: [question(text)] }),
    regenerate: (start: string) => fork(start, null), // repeats the input of that run

    /** The stream continues until the run has stopped, so the page receives its last save. */
    async stop() {
      const runs = await client.runs.list(threadId!, { status: "running", limit: 1 });
      for (const run of runs) await client.runs.cancel(threadId!, run.run_id);
    },

    answer: (value: unknown) => stream.respond(value, { interruptId: stream.interrupt!.id! }),
  };
}
