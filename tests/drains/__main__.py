"""Drain workers under load repeatedly: `make drains` (COUNT=1000).

A run whose code has returned within the grace has succeeded, whatever the drain was doing at that moment.
Exits with 1 if the store has another status for any such run.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from coordinator import CoordinatorError, RunContext, RunManager, open_coordinator

CLIENTS = 24
THREADS = 200
WARM_UP = 60  # largest number of runs that are admitted until the drain begins
LASTS = 0.02  # longest duration (s) of a run
GRACE = 30.0  # s


class Load:
    """Clients of one worker. Each creates runs until the worker refuses one."""

    def __init__(self, manager: RunManager) -> None:
        self._manager, self._returned, self._refused = manager, list[str](), False
        self._left, self._warm = random.randint(1, WARM_UP), asyncio.Event()

    async def _agent(self, ctx: RunContext) -> None:
        await asyncio.sleep(random.uniform(0, LASTS))
        self._returned.append(ctx.run.run_id)

    async def _client(self) -> None:
        while not self._refused:
            try:
                thread = f"t{random.randrange(THREADS)}"
                run = await self._manager.create_or_reject(thread, multitask_strategy="enqueue")
            except CoordinatorError:
                self._refused = True
            else:
                self._manager.launch(run, self._agent)
                self._left -= 1
                if self._left <= 0:
                    self._warm.set()
                await asyncio.sleep(0)

    async def drained(self) -> list[str]:
        """Drain the worker under load. Returns the ids of the runs whose code has returned."""
        clients = [asyncio.ensure_future(self._client()) for _ in range(CLIENTS)]
        await self._warm.wait()
        await self._manager.worker.drain(GRACE)
        self._refused = True
        await asyncio.gather(*clients)
        return self._returned


async def one_drain(folder: Path) -> tuple[Counter[str], list[str]]:
    """Returns the statuses of the runs whose code returned, and a line for each run that did not succeed."""
    url = f"sqlite:///{folder / 'runs.db'}"
    async with open_coordinator(url, sqlite_synchronous="NORMAL", grace=0) as manager:
        returned = await Load(manager).drained()
    async with open_coordinator(url, grace=0) as reader:
        rows = {run_id: await reader.runs.get(run_id) for run_id in returned}
    wrong = [
        f"{run_id}: {row.status}, {row.cancel_cause}"
        for run_id, row in rows.items()
        if row.status != "success"
    ]
    return Counter(row.status.value for row in rows.values()), wrong


async def drains(count: int) -> tuple[Counter[str], list[str]]:
    ends, wrong = Counter[str](), list[str]()
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder:
            some, bad = await one_drain(Path(folder))
        ends += some
        wrong += bad
    return ends, wrong


def write(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make drains", description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    began = time.monotonic()
    ends, wrong = asyncio.run(drains(count))
    write(f"{count} drains in {time.monotonic() - began:.0f} s: {ends.total()} runs returned, {dict(ends)}")
    for line in wrong[:20]:
        write(f"decided otherwise: {line}")
    write(f"{len(wrong)} finished runs decided otherwise")
    return 1 if wrong or not ends else 0


if __name__ == "__main__":
    sys.exit(main())
