// The question of a paused run. Its form is that of LangChain's HumanInTheLoopMiddleware.
import { useState } from "react";
import type { Desk } from "./desk";

type Action = { name: string; args: Record<string, unknown>; description?: string };
type Question = { actionRequests?: Action[]; action_requests?: Action[] };

export function Approval({ desk }: { desk: Desk }) {
  const question = desk.chat.interrupt?.value as Question | undefined;
  const action = (question?.actionRequests ?? question?.action_requests)?.[0];
  if (!action || desk.chat.isLoading) return null;
  return <Decision key={JSON.stringify(action)} desk={desk} action={action} />;
}

function Decision({ desk, action }: { desk: Desk; action: Action }) {
  const [args, setArgs] = useState<Record<string, string>>(() =>
    Object.fromEntries(Object.entries(action.args).map(([name, value]) => [name, String(value)])),
  );
  const [reason, setReason] = useState("");
  const isEdited = Object.entries(action.args).some(([name, value]) => args[name] !== String(value));
  const approve = () => {
    if (!isEdited) return desk.decide({ type: "approve" });
    desk.decide({ type: "edit", edited_action: { name: action.name, args: typed(args, action.args) } });
  };
  return (
    <section className="approval" aria-label="Approval">
      <p><b>{action.name.replace("_", " ")}?</b> {action.description}</p>
      <div className="fields">
        {Object.keys(args).map((name) => (
          <label key={name}>
            {name}
            <input
              value={args[name]}
              inputMode={typeof action.args[name] === "number" ? "decimal" : undefined}
              onChange={(event) => setArgs({ ...args, [name]: event.target.value })}
            />
          </label>
        ))}
        <label className="wide">
          reason, if you reject
          <input value={reason} onChange={(event) => setReason(event.target.value)} />
        </label>
      </div>
      <div className="buttons">
        <button className="primary" onClick={approve} autoFocus>{isEdited ? "Approve the change" : "Approve"}</button>
        <button className="danger" onClick={() => desk.decide({ type: "reject", message: reason || undefined })}>Reject</button>
      </div>
    </section>
  );
}

/** The fields of the form with the types of the arguments. */
function typed(fields: Record<string, string>, args: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).map(([name, text]) => [name, typeof args[name] === "number" ? Number(text) : text]),
  );
}
