// A question to a person: read with useLangGraphInterruptState, answered with useLangGraphSendCommand.
import { useAuiState } from "@assistant-ui/react";
import {
  type LangGraphCommand,
  useLangGraphInterruptState,
  useLangGraphSendCommand,
} from "@assistant-ui/react-langgraph";

/** LangChain's middleware takes decisions; a function of one's own any answer, here true or false. */
function answers(value: unknown) {
  const requests = (value as { action_requests?: unknown[] } | null)?.action_requests;
  if (!requests) return { approve: true, reject: false };
  const all = (type: string) => ({ decisions: requests.map(() => ({ type })) });
  return { approve: all("approve"), reject: all("reject") };
}

export function Interrupt() {
  const interrupt = useLangGraphInterruptState();
  const isRunning = useAuiState((s) => s.thread.isRunning);
  const sendCommand = useLangGraphSendCommand();
  if (!interrupt || isRunning) return null;
  const { approve, reject } = answers(interrupt.value);
  const resume = (answer: unknown) => void sendCommand({ resume: answer } as unknown as LangGraphCommand);
  return (
    <section aria-label="Interrupt">
      <pre>{JSON.stringify(interrupt.value)}</pre>
      <button onClick={() => resume(approve)}>Approve</button>
      <button onClick={() => resume(reject)}>Reject</button>
    </section>
  );
}
