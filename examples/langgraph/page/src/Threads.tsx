import type { Thread } from "@langchain/langgraph-sdk";
import type { State } from "./api";
import type { Desk } from "./desk";

const STATUS = { idle: "", busy: "answering", interrupted: "waits for you", error: "failed" };

export function Threads({ desk, open }: { desk: Desk; open: (id: string | null) => void }) {
  const { threads } = desk.live;
  return (
    <nav aria-label="Threads">
      <button className="new" onClick={() => open(null)} title="Alt+N">+ New chat</button>
      {threads?.length === 0 && <p className="hint">Your chats appear here.</p>}
      <ul>
        {threads?.map((thread) => (
          <li key={thread.thread_id}>
            <button aria-current={thread.thread_id === desk.threadId ? "page" : undefined} onClick={() => open(thread.thread_id)}>
              <span className="title">{titleOf(thread)}</span>
              <span className={`status ${thread.status}`}>{statusOf(thread)}</span>
            </button>
          </li>
        ))}
      </ul>
    </nav>
  );
}

function statusOf(thread: Thread<State>): string {
  const asks = Object.values(thread.interrupts ?? {}).some((interrupts) => interrupts.length > 0);
  return thread.status === "interrupted" && !asks ? "stopped" : STATUS[thread.status];
}

/** The metadata has a title if the page has created the thread. */
function titleOf(thread: Thread<State>): string {
  return String(thread.metadata?.title ?? "Untitled");
}
