import type { Message } from "@langchain/langgraph-sdk";
import { useLayoutEffect, useRef, useState } from "react";
import { textOf } from "./api";
import type { Desk } from "./desk";

const SUGGESTIONS = ["refund 250 for order 1042", "research return policies", "where is order 7?", "count to 100"];

export function Conversation({ desk }: { desk: Desk }) {
  const { chat, messages, cutOff, queue } = desk;
  const list = useScrolledToEnd();
  const isEmpty = messages.length === 0 && !chat.isLoading && !chat.isThreadLoading;
  return (
    <div className="conversation" ref={list}>
      {isEmpty && (
        <div className="empty">
          <h2>What can the desk do for you?</h2>
          {SUGGESTIONS.map((text) => (
            <button key={text} onClick={() => void desk.send(text)}>{text}</button>
          ))}
        </div>
      )}
      <div role="log" aria-label="Conversation" aria-busy={chat.isLoading}><ol>
        {messages.map((message, index) => (
          <Entry key={message.id ?? index} desk={desk} message={message} />
        ))}
        {chat.isLoading && messages.at(-1)?.type !== "ai" && (
          <li className="ai"><span className="dots" aria-label="The desk works" /></li>
        )}
        {cutOff && !chat.isLoading && <li className="ai cut-off"><div className="text">{cutOff}</div></li>}
        {desk.isStopped && (
          <li className="note">
            Stopped before the answer was complete. <button className="quiet" onClick={desk.resume}>Continue</button>
          </li>
        )}
      </ol></div>
      {queue.length > 0 && (
        <ol className="queue" aria-label="Queue">
          {queue.map((run) => (
            <li key={run.run_id}>
              <span>{String((run.metadata as { text?: string } | null)?.text ?? "a run of another client")}</span>
              <button className="icon" aria-label="Remove from the queue" onClick={() => void desk.dequeue(run.run_id)}>×</button>
            </li>
          ))}
        </ol>
      )}
    </div>
  );
}

function Entry({ desk, message }: { desk: Desk; message: Message }) {
  const [isEdited, setEdited] = useState(false);
  const idle = !desk.chat.isLoading;
  if (message.type === "tool") {
    return <li className={`tool ${message.status === "error" ? "failed" : ""}`}><span>{textOf(message)}</span></li>;
  }
  const calls = message.type === "ai" ? (message.tool_calls ?? []) : [];
  const text = textOf(message);
  if (isEdited) {
    return (
      <li className="human edited">
        <Edit text={text} close={() => setEdited(false)} save={(changed) => desk.edit(message, changed)} />
      </li>
    );
  }
  return (
    <li className={message.type}>
      {text && <div className="text">{text}</div>}
      {calls.map((call) => (
        <div className="call" key={call.id}>
          <b>{call.name.replace("_", " ")}</b>
          {Object.entries(call.args ?? {}).map(([name, value]) => <span key={name}>{name} {String(value)}</span>)}
        </div>
      ))}
      {text && (
        <div className="tools">
          <Versions desk={desk} message={message} />
          {idle && message.type === "human" && <button className="quiet" onClick={() => setEdited(true)}>Edit</button>}
          {idle && message.type === "ai" && <button className="quiet" onClick={() => desk.regenerate(message)}>Again</button>}
        </div>
      )}
    </li>
  );
}

/** Switches between the versions of a message that was edited or generated again. */
function Versions({ desk, message }: { desk: Desk; message: Message }) {
  const { branch, branchOptions } = desk.chat.getMessagesMetadata(message) ?? {};
  if (!branch || !branchOptions || branchOptions.length < 2 || desk.chat.isLoading) return null;
  const at = branchOptions.indexOf(branch);
  const move = (by: number) => desk.chat.setBranch(branchOptions[at + by]);
  return (
    <span className="versions" role="group" aria-label="Versions">
      <button className="quiet" aria-label="Previous version" disabled={at <= 0} onClick={() => move(-1)}>‹</button>
      {at + 1} of {branchOptions.length}
      <button className="quiet" aria-label="Next version" disabled={at + 1 >= branchOptions.length} onClick={() => move(1)}>›</button>
    </span>
  );
}

function Edit({ text, close, save }: { text: string; close: () => void; save: (text: string) => void }) {
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        const changed = String(new FormData(event.currentTarget).get("text")).trim();
        close();
        if (changed) save(changed);
      }}
      onKeyDown={(event) => {
        if (event.key === "Escape") close();
        if (event.key === "Enter" && !event.shiftKey) {
          event.preventDefault();
          event.currentTarget.requestSubmit();
        }
        event.stopPropagation();
      }}
    >
      <textarea name="text" aria-label="Edit the message" defaultValue={text} rows={2} autoFocus />
      <div className="buttons">
        <button className="primary">Send as a new version</button>
        <button type="button" onClick={close}>Cancel</button>
      </div>
    </form>
  );
}

/** The list shows its end while it grows, unless the reader has scrolled up. */
function useScrolledToEnd() {
  const list = useRef<HTMLDivElement>(null);
  const follows = useRef(true);
  useLayoutEffect(() => {
    const element = list.current!;
    const onScroll = () => {
      follows.current = element.scrollHeight - element.scrollTop - element.clientHeight < 80;
    };
    element.addEventListener("scroll", onScroll, { passive: true });
    return () => element.removeEventListener("scroll", onScroll);
  }, []);
  useLayoutEffect(() => {
    if (follows.current) list.current!.scrollTop = list.current!.scrollHeight;
  });
  return list;
}
