import { useCallback, useEffect, useMemo, useState } from "react";
import { clientWith, saveKey, savedKey } from "./api";
import { Approval } from "./Approval";
import { Composer } from "./Composer";
import { useDesk } from "./desk";
import { ErrorNote } from "./ErrorNote";
import { Conversation } from "./Conversation";
import { StepsPane } from "./StepsPane";
import { Threads } from "./Threads";

export function App() {
  const [key, setKey] = useState(savedKey);
  const client = useMemo(() => clientWith(key), [key]);
  const [threadId, show] = useThreadOfAddress();
  const [panel, setPanel] = useState<"threads" | "steps" | null>(null); // on narrow screens
  const desk = useDesk(client, threadId, show);
  const open = (id: string | null) => {
    show(id);
    setPanel(null);
  };
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key === "Escape") panel ? setPanel(null) : desk.chat.isLoading && void desk.stop();
      if (event.altKey && event.code === "KeyN") open(null);
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  });
  return (
    <div className={`layout ${panel ? `show-${panel}` : ""}`}>
      <Threads desk={desk} open={open} />
      <main>
        <header>
          <button className="icon narrow" aria-label="Threads" aria-expanded={panel === "threads"} onClick={() => setPanel("threads")}>☰</button>
          <h1>Desk</h1>
          <button className="quiet medium" aria-expanded={panel === "steps"} onClick={() => setPanel(panel === "steps" ? null : "steps")}>Steps</button>
        </header>
        <Conversation desk={desk} />
        <div className="foot">
          <Approval desk={desk} />
          {desk.error != null && (
            <ErrorNote
              error={desk.error}
              retry={desk.chat.isLoading ? undefined : desk.retry}
              useKey={(key) => {
                saveKey(key);
                setKey(key);
              }}
            />
          )}
          <Composer desk={desk} />
        </div>
      </main>
      <StepsPane desk={desk} close={() => setPanel(null)} />
      {panel && <button className="shade" aria-label="Close" onClick={() => setPanel(null)} />}
    </div>
  );
}

/** The id of the thread is in the address: a reload shows the thread again, and the address can be shared. */
function useThreadOfAddress(): [string | null, (threadId: string | null) => void] {
  const read = () => location.hash.slice(1) || null;
  const [threadId, setThreadId] = useState(read);
  useEffect(() => {
    const onChange = () => setThreadId(read());
    addEventListener("hashchange", onChange);
    return () => removeEventListener("hashchange", onChange);
  }, []);
  const show = useCallback((id: string | null) => {
    history.replaceState(null, "", id ? `#${id}` : location.pathname);
    setThreadId(id);
  }, []);
  return [threadId, show];
}
