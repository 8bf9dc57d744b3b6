import { AssistantRuntimeProvider } from "@assistant-ui/react";
import { unstable_createLangGraphStream, useLangGraphRuntime } from "@assistant-ui/react-langgraph";
import { ASSISTANT_ID, client, getCheckpointId, load, threadListAdapter } from "./chatApi";
import { Thread } from "./Thread";
import { ThreadList } from "./ThreadList";

const stream = unstable_createLangGraphStream({ client, assistantId: ASSISTANT_ID });
const initialThreadId = new URLSearchParams(location.search).get("thread") ?? undefined;

export function MyAssistant() {
  const runtime = useLangGraphRuntime({
    unstable_allowCancellation: true,
    stream,
    load,
    getCheckpointId,
    unstable_threadListAdapter: threadListAdapter,
    initialThreadId,
    onThreadIdChange: (threadId) => {
      const url = new URL(location.href);
      if (threadId) url.searchParams.set("thread", threadId);
      else url.searchParams.delete("thread");
      history.replaceState(null, "", url);
    },
  });
  return (
    <AssistantRuntimeProvider runtime={runtime}>
      <ThreadList />
      <Thread />
    </AssistantRuntimeProvider>
  );
}
