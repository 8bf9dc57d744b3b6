"""Kill the owners of graphs in mid-step, and restart workers one after another: `make attempts` (KILLS=500,
RESTARTS=100).

Exits with 1 if a thread has a step twice or lacks one, a rollback is not exact, a run has failed, or a
rolling restart has executed a step twice. A killed worker's step is executed again; its effect is in the
state once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from coordinator.servers.postgres import PostgresServer
from tests.attempts.worker import STEPS, Journal, Plan, opened, work

WORKERS = 3
LONGEST_WAIT = 60.0  # s, for a worker to begin, and for the runs to end


class Fleet:
    """Forked workers: a child has all modules imported."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self.pids = plan, set[int]()
        self._read = 0

    def begin(self) -> None:
        pid = os.fork()
        if pid == 0:
            status = 1
            with suppress(KeyboardInterrupt):
                asyncio.run(work(self._plan))
                status = 0
            os._exit(status)
        self.pids.add(pid)
        self._until("ready", {pid}, f"worker {pid} is ready")

    def kill_in_a_step(self) -> None:
        """Kills a worker after it has begun a step, at a random moment of it."""
        self._new()
        pid = self._until("begun", self.pids, "a step begins")
        time.sleep(random.uniform(0, self._plan.step))
        os.kill(pid, signal.SIGKILL)
        self._ended(pid)

    def drain(self, pid: int) -> None:
        os.kill(pid, signal.SIGTERM)
        self._ended(pid)

    def _ended(self, pid: int) -> None:
        os.waitpid(pid, 0)
        self.pids.discard(pid)

    def finish(self) -> None:
        """No worker admits more runs; returns when all have ended."""
        self._plan.stop.touch()
        until = time.monotonic() + LONGEST_WAIT
        while self.pids and time.monotonic() < until:
            for pid in list(self.pids):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    self.pids.discard(pid)
            time.sleep(0.05)
        for pid in list(self.pids):
            os.kill(pid, signal.SIGKILL)
            self._ended(pid)

    def _new(self) -> list[dict[str, Any]]:
        with suppress(FileNotFoundError), self._plan.journal.open("rb") as journal:
            journal.seek(self._read)
            text = journal.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read += len(whole)
            return [json.loads(line) for line in whole.splitlines()]
        return []

    def _until(self, event: str, pids: set[int], what: str) -> int:
        """Returns the worker that the journal names with this event, one of `pids`."""
        until = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < until:
            for line in self._new():
                if event in line and line["pid"] in pids:
                    return line["pid"]
            time.sleep(0.005)
        raise TimeoutError(what)


async def judged(plan: Plan) -> tuple[Counter[str], list[str]]:
    """Counts, and what is wrong with the state of any thread."""
    counts, wrong = Counter[str](), list[str]()
    async with opened(plan, Journal(Path(os.devnull))) as manager:
        rows = await manager.store.runs(limit=1_000_000)
        by_thread: dict[str, list[Any]] = {}
        for row in rows:
            by_thread.setdefault(row.thread_id, []).append(row)
        for thread_id, runs in by_thread.items():
            view = await manager.threads.state(thread_id)
            values: dict[str, list[tuple[str, int]]] = {} if view is None else view.values or {}
            log = values.get("log", [])
            for row in runs:
                steps = [number for run_id, number in log if run_id == row.run_id]
                counts[row.status.value] += 1
                counts["continued runs"] += row.attempt > 1
                counts["further attempts"] += row.attempt - 1
                wrong += _judged(row, steps, counts)
    return counts, wrong


def _judged(row: Any, steps: list[int], counts: Counter[str]) -> list[str]:
    what = f"run {row.run_id} ({row.status}, attempt {row.attempt}) has the steps {steps}"
    doubled = len(steps) - len(set(steps))
    counts["steps doubled"] += doubled
    if row.open:
        counts["not over"] += 1
        return [what]
    rolled_back = row.cancel_action == "rollback"
    expected = [] if rolled_back else list(range(STEPS)) if row.status == "success" else steps
    counts["rolled back"] += rolled_back
    counts["steps lost"] += len(set(expected) - set(steps))
    counts["rollbacks not exact"] += bool(rolled_back and steps)
    if row.status == "error":
        return [f"{what}: {row.error}"]
    return [what] if steps != expected else []


def executions(plan: Plan) -> tuple[int, int]:
    """Steps that were executed to their end, and those of them that were so more than once."""
    done = Counter[tuple[str, int]]()
    for text in plan.journal.read_bytes().splitlines():
        line = json.loads(text)
        if "done" in line:
            done[line["run"], line["done"]] += 1
    return len(done), sum(times - 1 for times in done.values())


def campaign(store: str, *, kills: int, restarts: int, step: float) -> bool:
    """Prints figures. Returns whether all is as it must be."""
    with tempfile.TemporaryDirectory() as name, server_of(store) as server:
        url = f"sqlite:///{name}/runs.db" if server is None else server.url()
        plan, began = Plan(url, Path(name), step), time.monotonic()
        fleet = Fleet(plan)
        for _ in range(WORKERS):
            fleet.begin()
        for _ in range(kills):
            fleet.kill_in_a_step()
            fleet.begin()
        for _ in range(restarts):
            for pid in sorted(fleet.pids):
                fleet.begin()
                fleet.drain(pid)
        fleet.finish()
        counts, wrong = asyncio.run(judged(plan))
        executed, again = executions(plan)
    took = time.monotonic() - began
    print(f"{store}: {kills} kills, {restarts} rolling restarts of {WORKERS} workers in {took:.0f} s")
    print("  " + ", ".join(f"{what}: {number}" for what, number in sorted(counts.items())))
    print(
        f"  {executed} steps executed, {again} of them again (the end of a step that was not written)",
        flush=True,
    )
    for line in wrong[:20]:
        print(f"  wrong: {line}")
    return not wrong and (kills > 0 or not again)


def server_of(store: str) -> AbstractContextManager[PostgresServer | None]:
    return PostgresServer(durable=False) if store == "postgres" else nullcontext(None)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make attempts", description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--step", type=float, default=0.1, help="longest time of a step (s)")
    parser.add_argument("--store", choices=("sqlite", "postgres"), action="append")
    args = parser.parse_args()
    fine = True
    for store in args.store or ("sqlite", "postgres"):
        for kills, restarts in ((args.kills, 0), (0, args.restarts)):
            if kills or restarts:
                fine &= campaign(store, kills=kills, restarts=restarts, step=args.step)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
