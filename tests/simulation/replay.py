"""What the store was asked in a seed, asked again of PostgreSQL and of SQLite's statements, both empty.

Every answer and refusal has to be the one that the seed has seen; in the end both have the same rows and
the same audit. So the histories of the simulation run on PostgreSQL, too, which is not in virtual time.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from stores.memory import MemoryStore
from stores.postgres import PostgresStore
from tests.simulation.campaign import laboratory, run_seed
from tests.simulation.store import Asked, Database
from tests.support import postgres
from tests.support.twins import TwinStore, comparable, refusal

BATCH = 250


@dataclass
class Replays:
    """What some seeds came to. `differed`: how, by seed."""

    seeds: int = 0
    calls: int = 0
    differed: dict[int, str] = field(default_factory=dict[int, str])

    def add(self, other: Replays) -> None:
        self.seeds += other.seeds
        self.calls += other.calls
        self.differed.update(other.differed)


def histories(seeds: Iterable[int]) -> list[tuple[int, list[Asked]]]:
    """All that the store was asked in each seed, in the order in which it was done."""
    found: list[tuple[int, list[Asked]]] = []
    with laboratory():
        database = Database()
        for number, seed in enumerate(seeds, 1):
            database.history = []
            run_seed(seed, database)
            found.append((seed, database.history))
            if number % 10 == 0:
                gc.collect()
    return found


class Replay:
    """Over one store, whose schema is emptied before each history."""

    def __init__(self, server: postgres.Database) -> None:
        self._server = server
        self._now = 0

    async def __call__(self, histories: Iterable[tuple[int, list[Asked]]]) -> Replays:
        total = Replays()
        async with self._server.store(clock=lambda: self._now) as store:
            for seed, history in histories:
                total.seeds += 1
                total.calls += len(history)
                await self._server.empty(store.schema)
                try:
                    await self._again(history, store)
                except AssertionError as error:
                    total.differed[seed] = str(error)
        return total

    async def _again(self, history: Sequence[Asked], store: PostgresStore) -> None:
        """Raises AssertionError at the first answer, or row, that is another one."""
        twins = TwinStore(store, MemoryStore(clock=lambda: self._now, shared=True))
        for number, asked in enumerate(history, 1):
            self._now = asked.at
            try:
                await _ask(twins, asked)
            except AssertionError as error:
                raise AssertionError(f"call {number} of {len(history)}: {error}") from None
        await twins.compare_tables()


async def _ask(twins: Any, asked: Asked) -> None:
    answer, error = None, None
    try:
        answer = await getattr(twins, asked.op)(*asked.args, **asked.kwargs)
    except AssertionError:
        raise
    except Exception as raised:  # noqa: BLE001 - the refusals are compared
        error = raised
    said, expected = refusal(error), refusal(asked.error)
    if asked.error is None and error is None:
        said, expected = comparable(asked.op, answer), comparable(asked.op, asked.answer)
    assert said == expected, f"{asked.op}{asked.args}: {said}, in the simulation {expected}"


def replay_batch(seeds: Iterable[int], server: postgres.Database | None = None) -> Replays:
    """On a server of its own, if on no other."""
    if server is None:
        with postgres.database() as own:
            return replay_batch(seeds, own)
    return asyncio.run(Replay(server)(histories(seeds)))


def replay_seeds(first: int, count: int, jobs: int) -> Iterator[Replays]:
    """Batches as they come in, from `jobs` processes."""
    ends = range(first, first + count, BATCH)
    parts = [range(begin, min(begin + BATCH, first + count)) for begin in ends]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(replay_batch, parts)
