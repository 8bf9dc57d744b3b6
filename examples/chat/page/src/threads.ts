// The threads of this assistant, read every two seconds while the page is visible, and after each change.
import { useCallback, useEffect, useState } from "react";
import { ASSISTANT, client } from "./api";

const PERIOD = 2000; // ms

/** `last`: the id of the newest message. `readAt`: when the request was sent (ms). */
export type Thread = { id: string; title: string; status: string; last: string | null; readAt: number };

export function useThreads(): [Thread[], () => void] {
  const [threads, setThreads] = useState<Thread[]>([]);
  const refresh = useCallback(async () => {
    const readAt = performance.now();
    const rows = await client.threads.search({
      metadata: { graph_id: ASSISTANT },
      select: ["thread_id", "status"],
      extract: { title: "values.messages[0].content", last: "values.messages[-1].id" },
      limit: 50,
    });
    setThreads(
      rows.map(({ thread_id, status, ...row }) => {
        const { title, last } = ((row as { extracted?: object }).extracted ?? {}) as { title?: string; last?: string };
        return { id: thread_id, title: title ?? "Untitled", status, last: last ?? null, readAt };
      }),
    );
  }, []);
  const quietly = useCallback(() => void refresh().catch(() => {}), [refresh]); // the next period reads again
  useEffect(() => {
    const whenVisible = () => void (document.visibilityState === "visible" && quietly());
    quietly();
    const timer = setInterval(whenVisible, PERIOD);
    document.addEventListener("visibilitychange", whenVisible);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", whenVisible);
    };
  }, [quietly]);
  return [threads, quietly];
}
