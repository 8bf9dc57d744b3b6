// The states of a thread form a tree. A branch is a path from the first state to one without followers; a message
// that was edited or answered again has one version in each branch.
import { useEffect, useState } from "react";
import { client, type Message, type State } from "./api";

type Checkpoint = { id: string; parent: string | null; messages: Message[] };

/**
 * Of one message. `before`: the earliest state that has what precedes it. `start`: the state that its run began with.
 * `options`: the first states behind `before` that have more messages, the oldest first.
 */
export type Versions = { before: string; start: string; options: string[]; at: number };

export class History {
  /** `states`: the newest first. */
  constructor(private readonly states: Checkpoint[]) {}

  get newest(): string | undefined {
    return this.states[0]?.id;
  }

  messagesAt(id: string | undefined): Message[] {
    return this.states.find((state) => state.id === id)?.messages ?? [];
  }

  /** The ids of all messages of all branches. */
  get known(): Set<string | undefined> {
    return new Set(this.states.flatMap((state) => state.messages.map((message) => message.id)));
  }

  /** The newest state of the branch through `id`. */
  leafOf(id: string): string {
    const next = this.states.find((state) => state.parent === id);
    return next ? this.leafOf(next.id) : id;
  }

  versionsOf(message: Message, leaf: string | undefined): Versions | undefined {
    const path = this.pathTo(leaf);
    const first = path.findIndex((state) => state.messages.some((one) => one.id === message.id));
    if (first < 1) return undefined;
    const start = path[first - 1];
    const before = path.find((state) => isSame(state.messages, start.messages))!;
    const options = this.followersOf(before).reverse();
    return { before: before.id, start: start.id, options, at: options.indexOf(path[first].id) };
  }

  /** The newest first. A run begins with a state of its own, which has no new messages. */
  private followersOf(before: Checkpoint): string[] {
    const behind = new Set([before.id]);
    const more: string[] = [];
    for (const state of [...this.states].reverse()) {
      if (state.parent === null || !behind.has(state.parent)) continue;
      if (isSame(state.messages, before.messages)) behind.add(state.id);
      else more.unshift(state.id);
    }
    return more;
  }

  private pathTo(leaf: string | undefined): Checkpoint[] {
    const path: Checkpoint[] = [];
    for (let id: string | null | undefined = leaf; id; ) {
      const state = this.states.find((one) => one.id === id);
      if (state) path.unshift(state);
      id = state?.parent;
    }
    return path;
  }
}

function isSame(some: Message[], others: Message[]): boolean {
  return some.length === others.length && some.every((message, index) => message.id === others[index].id);
}

/** The history of a thread at rest; undefined while a run is in progress, and until it is read. */
export function useHistory(threadId: string | null, isLoading: boolean): History | undefined {
  const [history, setHistory] = useState<History>();
  useEffect(() => {
    setHistory(undefined);
    if (threadId === null || isLoading) return;
    let isCurrent = true;
    client.threads.getHistory<State>(threadId, { limit: 200 }).then(
      (states) => {
        const tree = states.map(({ checkpoint, parent_checkpoint, values }) => ({
          id: checkpoint.checkpoint_id!,
          parent: parent_checkpoint?.checkpoint_id ?? null,
          messages: values?.messages ?? [],
        }));
        if (isCurrent) setHistory(new History(tree));
      },
      () => {}, // the page shows what was streamed, without versions
    );
    return () => {
      isCurrent = false;
    };
  }, [threadId, isLoading]);
  return history;
}
