import { type FormEvent, type KeyboardEvent, useEffect, useRef, useState } from "react";
import type { Desk } from "./desk";

export function Composer({ desk }: { desk: Desk }) {
  const [text, setText] = useState("");
  const field = useRef<HTMLTextAreaElement>(null);
  const busy = desk.chat.isLoading;
  const asks = !busy && desk.chat.interrupt?.value !== undefined;
  useEffect(() => field.current?.focus(), [desk.threadId, asks]);
  const send = async (event: FormEvent) => {
    event.preventDefault();
    const question = text.trim();
    if (!question || asks) return;
    setText("");
    if (!(await desk.send(question))) setText(question); // what was refused stays in the field
  };
  const onKeyDown = (event: KeyboardEvent<HTMLTextAreaElement>) => {
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    event.currentTarget.form!.requestSubmit();
  };
  return (
    <form className="composer" onSubmit={(event) => void send(event)}>
      <textarea
        ref={field}
        rows={1}
        aria-label="Your message"
        placeholder={asks ? "Decide above first" : busy ? "Queue a message" : "Ask the desk"}
        disabled={asks}
        value={text}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={onKeyDown}
      />
      {busy && <button type="button" className="stop" onClick={() => void desk.stop()} title="Escape">Stop</button>}
      <button className="primary" disabled={!text.trim() || asks}>{busy ? "Queue" : "Send"}</button>
    </form>
  );
}
