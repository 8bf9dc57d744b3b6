// The parts of assistant-ui's own components/assistant-ui/thread-list.tsx, without their style.
import { ThreadListItemPrimitive, ThreadListPrimitive } from "@assistant-ui/react";

export function ThreadList() {
  return (
    <ThreadListPrimitive.Root asChild>
      <nav aria-label="Threads">
        <ThreadListPrimitive.New>New Thread</ThreadListPrimitive.New>
        <ThreadListPrimitive.Items components={{ ThreadListItem }} />
      </nav>
    </ThreadListPrimitive.Root>
  );
}

function ThreadListItem() {
  return (
    <ThreadListItemPrimitive.Root className="item">
      <ThreadListItemPrimitive.Trigger>
        <ThreadListItemPrimitive.Title fallback="New Chat" />
      </ThreadListItemPrimitive.Trigger>
      <ThreadListItemPrimitive.Delete aria-label="Delete thread">×</ThreadListItemPrimitive.Delete>
    </ThreadListItemPrimitive.Root>
  );
}
