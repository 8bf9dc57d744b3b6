// The steps of a run: a task starts with an input and ends with a result. Tasks of a subgraph have its namespace.
import type { Client, ThreadState } from "@langchain/langgraph-sdk";
import { useCallback, useState } from "react";

export type Step = { id: string; name: string; depth: number; state: "running" | "done" | "paused" | "failed"; detail?: string };

type Task = { id: string; name: string; input?: unknown; result?: unknown; error?: unknown; interrupts?: unknown[] };

export function useSteps() {
  const [steps, setSteps] = useState<Step[]>([]);
  const clear = useCallback(() => setSteps([]), []);
  const add = useCallback((event: unknown, namespace: string[] | undefined) => {
    const step = stepOf(event as Task, namespace?.length ?? 0);
    setSteps((steps) => {
      const known = steps.findIndex((one) => one.id === step.id);
      return known < 0 ? [...steps, step] : steps.with(known, { ...step, detail: step.detail ?? steps[known].detail });
    });
  }, []);
  const fill = useCallback((past: Step[]) => setSteps((steps) => (steps.length > 0 ? steps : past)), []);
  return { steps, clear, add, fill };
}

/** The steps of the last run of the thread, from its checkpoints and those of its subgraphs. `states`: the oldest first. */
export async function pastSteps(client: Client, threadId: string, states: ThreadState[]): Promise<Step[]> {
  const first = states.findIndex((state) => runOf(state) === runOf(states.at(-1)));
  // A run without an input has continued the tasks of the state before its own.
  const from = first > 0 && states[first].metadata?.source !== "input" ? first - 1 : Math.max(first, 0);
  return stepsOf(client, threadId, states.slice(from), 0);
}

async function stepsOf(client: Client, threadId: string, states: ThreadState[], depth: number): Promise<Step[]> {
  const steps: Step[] = [];
  for (const [index, state] of states.entries()) {
    for (const task of state.tasks.filter((task) => task.name !== "__start__")) {
      const isOver = index + 1 < states.length;
      steps.push(stepOf(isOver ? { ...task, result: task.result ?? {}, interrupts: [] } : (task as Task), depth));
      if (!task.checkpoint) continue;
      const inner = await client.threads.getHistory(threadId, { checkpoint: task.checkpoint, limit: 50 });
      steps.push(...(await stepsOf(client, threadId, inner.reverse(), depth + 1)));
    }
  }
  return steps;
}

function runOf(state: ThreadState | undefined): unknown {
  return state?.metadata?.run_id;
}

function stepOf(event: Task, depth: number): Step {
  const step = { id: event.id, name: event.name, depth };
  if (event.error) return { ...step, state: "failed", detail: errorText(event.error) };
  if (event.interrupts?.length) return { ...step, state: "paused", detail: "waits for you" };
  if (event.result != null) return { ...step, state: "done", detail: shortened(event.result) };
  return { ...step, state: "running", detail: shortened((event.input as { source?: unknown })?.source) };
}

function errorText(error: unknown): string {
  return typeof error === "object" && error !== null && "message" in error ? String(error.message) : String(error);
}

/** The first text in the result of a step that is no message. */
function shortened(result: unknown): string | undefined {
  if (typeof result === "string") return result;
  if (Array.isArray(result)) return result.every((one) => typeof one === "string") ? result.join(", ") : undefined;
  if (typeof result !== "object" || result === null) return undefined;
  return Object.values(result).map(shortened).find(Boolean);
}
