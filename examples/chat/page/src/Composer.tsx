import { type Dispatch, type FormEvent, type KeyboardEvent, type SetStateAction, useState } from "react";
import type { Chat } from "./chat";

export type Draft = { text: string; setText: Dispatch<SetStateAction<string>> };

export function Composer({ chat, text, setText }: Draft & { chat: Chat }) {
  const isBusy = chat.isLoading;
  const send = (event: FormEvent) => {
    event.preventDefault();
    if (!text.trim() || chat.interrupt) return;
    setText("");
    void chat.send(text.trim(), () => setText((typed) => typed || text)); // what was refused stays in the field
  };
  const onKeyDown = (event: KeyboardEvent<HTMLTextAreaElement>) => {
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    event.currentTarget.form!.requestSubmit();
  };
  return (
    <>
      {chat.interrupt && <Decision chat={chat} />}
      <form className="composer" onSubmit={send}>
        <textarea
          rows={1}
          autoFocus
          aria-label="Your message"
          placeholder={chat.interrupt ? "Decide above first" : isBusy ? "Queue a message" : "Count to …"}
          disabled={chat.interrupt !== undefined}
          value={text}
          onChange={(event) => setText(event.target.value)}
          onKeyDown={onKeyDown}
        />
        {isBusy && <button type="button" className="stop" onClick={() => void chat.stop()}>Stop</button>}
        <button className="primary" disabled={!text.trim()}>{isBusy ? "Queue" : "Send"}</button>
      </form>
    </>
  );
}

type Action = { name: string; args: object; description?: string };
type Question = { question?: string; actionRequests?: Action[]; action_requests?: Action[] };

/** The question of a paused run. One of LangChain's HumanInTheLoopMiddleware is answered in its own form. */
function Decision({ chat }: { chat: Chat }) {
  const [isSent, setSent] = useState(false);
  const value = chat.interrupt!.value as Question;
  const [action] = value?.actionRequests ?? value?.action_requests ?? [];
  const decide = (isApproved: boolean) => {
    setSent(true);
    const type = isApproved ? "approve" : "reject";
    void chat.answer(action ? { decisions: [{ type }] } : isApproved);
  };
  return (
    <section className="decision" aria-label="Decision">
      <p>{value?.question ?? action?.description ?? JSON.stringify(value)}</p>
      <button className="primary" disabled={isSent} onClick={() => decide(true)}>Approve</button>
      <button disabled={isSent} onClick={() => decide(false)}>Reject</button>
    </section>
  );
}
