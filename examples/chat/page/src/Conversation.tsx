import { type KeyboardEvent, useLayoutEffect, useRef, useState } from "react";
import { type Message, textOf } from "./api";
import type { Chat } from "./chat";

export function Conversation({ chat }: { chat: Chat }) {
  const { messages, queue } = chat;
  return (
    <div className="conversation" ref={useScrolledToEnd()}>
      <ol role="log" aria-label="Conversation" aria-busy={chat.isLoading}>
        {messages.map((message, index) => (
          <Entry key={message.id ?? index} chat={chat} message={message} />
        ))}
        {chat.isLoading && messages.at(-1)?.type !== "ai" && <li className="dots" aria-label="The answer begins" />}
      </ol>
      {queue.length > 0 && (
        <ol className="queue" aria-label="Queue">
          {queue.map(({ id, text }) => (
            <li key={id}>
              <span>{text}</span>
              <button aria-label="Remove from the queue" onClick={() => void chat.dequeue(id)}>×</button>
            </li>
          ))}
        </ol>
      )}
    </div>
  );
}

function Entry({ chat, message }: { chat: Chat; message: Message }) {
  const [isEdited, setEdited] = useState(false);
  const versions = chat.versionsOf(message);
  if (isEdited && versions) {
    return (
      <li className="human">
        <Edit text={textOf(message)} close={() => setEdited(false)} save={(text) => void chat.edit(versions.before, text)} />
      </li>
    );
  }
  return (
    <li className={message.type}>
      <div className="text">{textOf(message)}</div>
      {versions && !chat.interrupt && (
        <div className="tools">
          {versions.options.length > 1 && (
            <span role="group" aria-label="Versions">
              <Switch chat={chat} label="Previous version" sign="‹" state={versions.options[versions.at - 1]} />
              {versions.at + 1} of {versions.options.length}
              <Switch chat={chat} label="Next version" sign="›" state={versions.options[versions.at + 1]} />
            </span>
          )}
          {message.type === "human" && <button onClick={() => setEdited(true)}>Edit</button>}
          {message.type === "ai" && <button onClick={() => void chat.regenerate(versions.start)}>Again</button>}
        </div>
      )}
    </li>
  );
}

function Switch({ chat, label, sign, state }: { chat: Chat; label: string; sign: string; state: string | undefined }) {
  return (
    <button aria-label={label} disabled={state === undefined} onClick={() => chat.choose(state!)}>{sign}</button>
  );
}

function Edit({ text, close, save }: { text: string; close: () => void; save: (text: string) => void }) {
  const onKeyDown = (event: KeyboardEvent<HTMLTextAreaElement>) => {
    if (event.key === "Escape") close();
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    const changed = event.currentTarget.value.trim();
    close();
    if (changed) save(changed);
  };
  return <textarea aria-label="Edit the message" defaultValue={text} rows={2} autoFocus onKeyDown={onKeyDown} />;
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
