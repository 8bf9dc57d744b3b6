// The parts of assistant-ui's own components/assistant-ui/thread.tsx, without their style.
import {
  ActionBarPrimitive,
  AuiIf,
  BranchPickerPrimitive,
  ComposerPrimitive,
  ErrorPrimitive,
  MessagePrimitive,
  ThreadPrimitive,
  useAuiState,
} from "@assistant-ui/react";
import { Interrupt } from "./Interrupt";

export function Thread() {
  return (
    <ThreadPrimitive.Root asChild>
      <main>
        <ThreadPrimitive.Viewport className="viewport">
          <ThreadPrimitive.Messages>{() => <Message />}</ThreadPrimitive.Messages>
          <Interrupt />
          <Composer />
        </ThreadPrimitive.Viewport>
      </main>
    </ThreadPrimitive.Root>
  );
}

function Message() {
  const role = useAuiState((s) => s.message.role);
  const isEditing = useAuiState((s) => s.message.composer.isEditing);
  if (isEditing) return <EditComposer />;
  return role === "user" ? <UserMessage /> : <AssistantMessage />;
}

function UserMessage() {
  return (
    <MessagePrimitive.Root data-role="user">
      <div className="text">
        <MessagePrimitive.Parts />
      </div>
      <BranchPicker />
      <ActionBarPrimitive.Root hideWhenRunning>
        <ActionBarPrimitive.Edit>Edit</ActionBarPrimitive.Edit>
      </ActionBarPrimitive.Root>
    </MessagePrimitive.Root>
  );
}

function AssistantMessage() {
  return (
    <MessagePrimitive.Root data-role="assistant">
      <div className="text">
        <MessagePrimitive.Parts components={{ tools: { Fallback: ToolFallback } }} />
      </div>
      <MessagePrimitive.Error>
        <ErrorPrimitive.Root>
          <ErrorPrimitive.Message />
        </ErrorPrimitive.Root>
      </MessagePrimitive.Error>
      <BranchPicker />
      <ActionBarPrimitive.Root hideWhenRunning>
        <ActionBarPrimitive.Reload>Refresh</ActionBarPrimitive.Reload>
      </ActionBarPrimitive.Root>
    </MessagePrimitive.Root>
  );
}

function ToolFallback({ toolName, argsText }: { toolName: string; argsText: string }) {
  return <span className="tool">{`${toolName} ${argsText}`}</span>;
}

function Composer() {
  return (
    <ComposerPrimitive.Root className="composer">
      <ComposerPrimitive.Input aria-label="Message input" rows={1} autoFocus />
      <AuiIf condition={(s) => !s.thread.isRunning}>
        <ComposerPrimitive.Send>Send</ComposerPrimitive.Send>
      </AuiIf>
      <AuiIf condition={(s) => s.thread.isRunning}>
        <ComposerPrimitive.Cancel>Stop</ComposerPrimitive.Cancel>
      </AuiIf>
    </ComposerPrimitive.Root>
  );
}

function EditComposer() {
  return (
    <MessagePrimitive.Root>
      <ComposerPrimitive.Root className="composer">
        <ComposerPrimitive.Input aria-label="Edit the message" autoFocus />
        <ComposerPrimitive.Cancel>Cancel</ComposerPrimitive.Cancel>
        <ComposerPrimitive.Send>Update</ComposerPrimitive.Send>
      </ComposerPrimitive.Root>
    </MessagePrimitive.Root>
  );
}

function BranchPicker() {
  return (
    <BranchPickerPrimitive.Root hideWhenSingleBranch>
      <BranchPickerPrimitive.Previous>Previous</BranchPickerPrimitive.Previous>
      <BranchPickerPrimitive.Number /> / <BranchPickerPrimitive.Count />
      <BranchPickerPrimitive.Next>Next</BranchPickerPrimitive.Next>
    </BranchPickerPrimitive.Root>
  );
}
