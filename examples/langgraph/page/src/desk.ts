// The conversation: `useStream`, and what it does not do: a queue on the server, runs that others have started, and
// what was shown when a run was stopped.
import type { Client, Message, Run } from "@langchain/langgraph-sdk";
import { useStream } from "@langchain/langgraph-sdk/react";
import { useEffect, useRef, useState } from "react";
import { ASSISTANT, RUN_OPTIONS, STREAM_MODES, type State, textOf } from "./api";
import { isUnreachable } from "./errors";
import { useLive } from "./live";
import { pastSteps, useSteps } from "./steps";

type Start = [values: Partial<State> | null, shown: Message[], options?: object];
type Attempt = { of: string | null; start: Start; isAdmitted: boolean };

const isInFlight = (run: Run) => run.status === "pending" || run.status === "running";

export type Desk = ReturnType<typeof useDesk>;
export type Decision = { type: "approve" } | { type: "reject"; message?: string } | { type: "edit"; edited_action: { name: string; args: unknown } };

export function useDesk(client: Client<State>, threadId: string | null, show: (threadId: string | null) => void) {
  const live = useLive(client, threadId);
  const { steps, clear, add, fill } = useSteps();
  const [cutOff, setCutOff] = useState<{ of: string | null; text: string }>();
  const [failure, setFailure] = useState<unknown>();
  const queueing = useRef<Promise<unknown>>(Promise.resolve());
  const attempt = useRef<Attempt>(undefined); // the latest of this tab
  const followed = useRef(new Set<string>()); // runs whose stream this tab has or had, or that ended before it was opened
  const current = useRef<{ runId: string; of: string | null }>(undefined); // the run of the stream, and its thread
  const opened = useRef<string | null>(null); // the thread whose runs were read
  const chat = useStream<State>({
    client,
    assistantId: ASSISTANT,
    threadId,
    onThreadId(id) {
      if (attempt.current) attempt.current.of = id;
      show(id);
    },
    fetchStateHistory: { limit: 200 },
    throttle: true,
    onMetadataEvent: clear, // the first event of a stream
    onTaskEvent: (task, { namespace }) => add(task, namespace),
    onCreated: ({ run_id, thread_id }) => {
      follow(run_id, thread_id);
      if (attempt.current) attempt.current.isAdmitted = true;
      void live.refresh();
    },
    onFinish: () => void live.refresh(),
    onError(error) {
      // A connection that was lost: the run continues, and its stream is joined again.
      if (isUnreachable(error) && attempt.current?.isAdmitted !== false) unfollow();
      void live.refresh();
    },
  });

  useEffect(() => {
    clear();
    setFailure(undefined);
    opened.current = null;
    return () => {
      // The stream ends with its thread. A thread that was just created may have its first run before this is called.
      if (current.current?.of === threadId) unfollow();
    };
  }, [threadId]);

  const past = chat.isLoading || steps.length > 0 ? undefined : chat.history.at(-1)?.checkpoint?.checkpoint_id;
  useEffect(() => {
    if (past && threadId) pastSteps(client, threadId, chat.history).then(fill, () => {}); // the pane stays empty
  }, [past, threadId]);

  // Joins the stream of a run that this tab has not started, or has left: after a reload, of the queue, of another
  // tab. That of another tab may have ended meanwhile: its stream is replayed, and the state is read again.
  const inFlight = (live.runs ?? []).filter(isInFlight).reverse();
  if (live.runs && opened.current !== threadId) {
    opened.current = threadId;
    for (const run of live.runs) if (!isInFlight(run)) followed.current.add(run.run_id);
  }
  const isUnknown = (run: Run) => !followed.current.has(run.run_id);
  const next = inFlight.find(isUnknown) ?? live.runs?.slice(0, 1).find(isUnknown);
  const joinable = !chat.isLoading && !chat.isThreadLoading ? next?.run_id : undefined;
  useEffect(() => {
    if (joinable === undefined) return;
    follow(joinable, threadId);
    setCutOff(undefined);
    void chat.joinStream(joinable);
  }, [joinable]);

  // A node that was cancelled has this error in the state of the thread. Its name is that of the exception.
  const wasCancelled = !chat.isLoading && /^CancelledError\b/.test(String(chat.error ?? ""));
  const messages = chat.messages.filter((message) => !isOfSubgraph(message));
  const drafts = chat.messages.filter(isOfSubgraph).map(textOf);

  function follow(runId: string, of: string | null) {
    followed.current.add(runId);
    current.current = { runId, of };
  }

  function unfollow() {
    if (current.current) followed.current.delete(current.current.runId);
  }

  function isOfSubgraph(message: Message): boolean {
    const namespace = chat.getMessagesMetadata(message)?.streamMetadata?.langgraph_checkpoint_ns;
    return typeof namespace === "string" && namespace.includes("|");
  }

  async function guarded(action: () => Promise<unknown>): Promise<boolean> {
    try {
      setFailure(undefined);
      await action();
      return true;
    } catch (error) {
      setFailure(error);
      return false;
    } finally {
      void live.refresh();
    }
  }

  function start(...[values, shown, options = {}]: Start) {
    attempt.current = { of: threadId, start: [values, shown, options], isAdmitted: false };
    setCutOff(undefined);
    setFailure(undefined);
    // A version that was chosen by hand goes on, and stays shown. Without a checkpoint the run starts from the newest.
    const checkpoint = chat.branch ? chat.history.at(-1)?.checkpoint : undefined;
    const optimisticValues = (held: Partial<State>) => ({ ...held, messages: shown });
    void chat.submit(values as State, { ...RUN_OPTIONS, checkpoint, optimisticValues, ...options });
  }

  return {
    client,
    threadId,
    show,
    chat,
    live,
    steps,
    messages,
    drafts,
    cutOff: cutOff !== undefined && cutOff.of === threadId ? cutOff.text : undefined,
    isStopped: wasCancelled || (!chat.isLoading && chat.error == null && chat.interrupt?.when === "breakpoint"),
    error: failure ?? (wasCancelled ? undefined : chat.error) ?? live.error,
    queue: inFlight.slice(1).filter((run) => run.status === "pending" && isUnknown(run)),

    /** Returns whether the text was accepted. While a run is in progress, the text is queued on the server. */
    async send(text: string): Promise<boolean> {
      const question: Message = { type: "human", id: crypto.randomUUID(), content: text };
      if (chat.isLoading && threadId !== null) {
        // One after another: the server queues them in the order of their arrival.
        const input = { messages: [question] };
        const options = { input, metadata: { text }, multitaskStrategy: "enqueue" as const, streamMode: [...STREAM_MODES] };
        const create = () => client.runs.create(threadId, ASSISTANT, { ...RUN_OPTIONS, ...options });
        const admitted = queueing.current.then(() => guarded(create));
        queueing.current = admitted;
        return admitted;
      }
      start({ messages: [question] }, [...messages, question], { metadata: { title: text.slice(0, 80) } });
      return true;
    },

    /** The stream ends when the run has stopped. What was shown of its answer is not in the state of the graph. */
    async stop(): Promise<void> {
      const last = messages.at(-1);
      setCutOff(last?.type === "ai" && textOf(last) ? { of: threadId, text: textOf(last) } : undefined);
      await guarded(async () => {
        const [run] = await client.runs.list(threadId!, { status: "running", limit: 1 });
        if (run) await client.runs.cancel(threadId!, run.run_id);
      });
    },

    dequeue: (runId: string) => guarded(() => client.runs.cancel(threadId!, runId)),

    /** Another version of the message, and of all that follows. */
    edit(message: Message, text: string): void {
      const at = messages.findIndex((one) => one.id === message.id);
      const edited: Message = { type: "human", id: crypto.randomUUID(), content: text };
      const checkpoint = chat.getMessagesMetadata(message)?.firstSeenState?.parent_checkpoint;
      start({ messages: [edited] }, [...messages.slice(0, at), edited], { checkpoint });
    },

    regenerate(message: Message): void {
      const at = messages.findIndex((one) => one.id === message.id);
      const checkpoint = chat.getMessagesMetadata(message)?.firstSeenState?.parent_checkpoint;
      start(null, messages.slice(0, at), { checkpoint });
    },

    /** Continues at the node that was stopped or has failed. */
    resume: () => start(null, messages),

    /** Repeats a request that has not reached the server, or continues at the node that has failed. */
    retry(): void {
      if (chat.error == null || inFlight.length > 0) {
        setFailure(undefined);
        void live.refresh();
        return;
      }
      const latest = attempt.current?.of === threadId ? attempt.current : undefined;
      if (latest?.isAdmitted === false) start(...latest.start);
      else start(null, messages);
    },

    decide: (decision: Decision) => start(null, messages, { command: { resume: { decisions: [decision] } } }),
  };
}
