// What the server has of threads and runs, read every two seconds while the page is visible, and after each change.
import type { Client, Run, Thread } from "@langchain/langgraph-sdk";
import { useCallback, useEffect, useRef, useState } from "react";
import { ASSISTANT, type State } from "./api";

const PERIOD = 2000; // ms
const THREAD_FIELDS: ("thread_id" | "status" | "metadata" | "interrupts")[] = ["thread_id", "status", "metadata", "interrupts"];
const RUN_FIELDS: ("run_id" | "status" | "metadata")[] = ["run_id", "status", "metadata"];

export type Live = {
  threads: Thread<State>[] | undefined; // undefined until they are read
  runs: Run[] | undefined; // of the shown thread, the newest first; undefined until they are read
  error: unknown;
  refresh: () => Promise<void>;
};

export function useLive(client: Client<State>, threadId: string | null): Live {
  const [threads, setThreads] = useState<Thread<State>[]>();
  const [runs, setRuns] = useState<{ of: string | null; list: Run[] }>();
  const [error, setError] = useState<unknown>();
  const latest = useRef(0);
  const refresh = useCallback(async () => {
    const read = ++latest.current;
    try {
      const [found, list] = await Promise.all([
        client.threads.search<State>({ metadata: { graph_id: ASSISTANT }, select: THREAD_FIELDS, limit: 50 }),
        threadId === null ? [] : client.runs.list(threadId, { select: RUN_FIELDS, limit: 20 }),
      ]);
      if (read !== latest.current) return; // a later read has begun
      setThreads(found);
      setRuns({ of: threadId, list });
      setError(undefined);
    } catch (failure) {
      if (read === latest.current) setError(failure);
    }
  }, [client, threadId]);
  useEffect(() => {
    const whenVisible = () => void (document.visibilityState === "visible" && refresh());
    void refresh();
    const timer = setInterval(whenVisible, PERIOD);
    document.addEventListener("visibilitychange", whenVisible);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", whenVisible);
    };
  }, [refresh]);
  return { threads, runs: runs?.of === threadId ? runs.list : undefined, error, refresh };
}
