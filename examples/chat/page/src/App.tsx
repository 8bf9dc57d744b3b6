import { useEffect, useState } from "react";
import { Composer, type Draft } from "./Composer";
import { type Options, useChat } from "./chat";
import { Conversation } from "./Conversation";
import { useThreads } from "./threads";

const STATUS: Record<string, string> = { busy: "answering", interrupted: "waits for you", error: "failed" };

/** The id of the thread is in the address: a reload shows the thread again, and the address can be shared. */
export function App() {
  const [threadId, setThreadId] = useState<string | null>(location.hash.slice(1) || null);
  const [opened, setOpened] = useState(0); // a stream belongs to one opening of a thread
  const [text, setText] = useState(""); // outlasts a change of the thread
  const [threads, refresh] = useThreads();
  const show = (id: string | null) => {
    history.replaceState(null, "", id ? `#${id}` : location.pathname + location.search);
    setThreadId(id);
  };
  const open = (id: string | null) => {
    show(id);
    setOpened((count) => count + 1);
  };
  useEffect(() => {
    const onChange = () => open(location.hash.slice(1) || null);
    addEventListener("hashchange", onChange);
    return () => removeEventListener("hashchange", onChange);
  }, []);
  return (
    <div className="layout">
      <nav aria-label="Threads">
        <button className="new" onClick={() => open(null)}>+ New chat</button>
        <ul>
          {threads.map(({ id, title, status }) => (
            <li key={id}>
              <button aria-current={id === threadId ? "page" : undefined} onClick={() => open(id)}>
                <span className="title">{title}</span>
                <span className={`status ${status}`}>{STATUS[status]}</span>
              </button>
            </li>
          ))}
        </ul>
      </nav>
      <Thread
        key={opened}
        threadId={threadId}
        thread={threads.find(({ id }) => id === threadId)}
        onThreadId={show}
        onChange={refresh}
        rejoin={() => setOpened((count) => count + 1)}
        text={text}
        setText={setText}
      />
    </div>
  );
}

type ThreadProps = Options & Draft & { threadId: string | null };

function Thread({ threadId, text, setText, ...options }: ThreadProps) {
  const chat = useChat(threadId, options);
  return (
    <main>
      <Conversation chat={chat} />
      <div className="foot">
        {chat.error != null && <p className="alert" role="alert">{messageOf(chat.error)}</p>}
        <Composer chat={chat} text={text} setText={setText} />
      </div>
    </main>
  );
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
