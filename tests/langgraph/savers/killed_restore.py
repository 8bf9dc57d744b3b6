"""`python -m tests.langgraph.savers.killed_restore URL RUN_ID FENCE`: for each number on stdin, restores the
run in a process that is killed before that step. Prints the step and how the process ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from typing import Any

from coordinator.langgraph.savers.sqlite import writing
from coordinator.langgraph.states import GraphStates, postgres_states, sqlite_states
from stores.postgres.connections import Connections


def _kill_at(point: int) -> Callable[[str], None]:
    """For each step in turn: kills this process before step number `point`, from 1."""
    left = [point]

    def step(name: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            _print(" ".join(name.split())[:60])
            os.kill(os.getpid(), signal.SIGKILL)

    return step


def _sqlite(path: str, step: Callable[[str], None]) -> GraphStates:
    """A step is a statement of the writer, from the beginning of the transaction to its commit."""
    undo = writing.undo

    def traced(cx: sqlite3.Connection, *args: Any) -> None:
        cx.set_trace_callback(step)
        undo(cx, *args)

    writing.undo = traced
    return sqlite_states(path)


def _postgres(url: str, step: Callable[[str], None]) -> GraphStates:
    """A step is a call, and the moment behind one: what is within a statement is the server's own."""
    run = Connections.run

    async def traced(self: Connections, call: Any, **options: Any) -> Any:
        step(call.statement.sql)
        answer = await run(self, call, **options)
        step(f"behind {call.statement.sql}")
        return answer

    Connections.run = traced
    return postgres_states(url)


async def _restore(url: str, point: int, run_id: str, fence: int) -> None:
    of = _postgres if url.startswith("postgres") else _sqlite
    states = of(url, _kill_at(point))
    async with states.opened():
        await states.restore("thread", run_id, None, fence)


def main(url: str, run_id: str, fence: str) -> None:
    """Forks, because imports take longer than all else."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(_restore(url, int(line), run_id, int(fence)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        _print("killed" if os.WIFSIGNALED(status) else f"ended {os.WEXITSTATUS(status)}")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
