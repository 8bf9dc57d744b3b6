"""The calls of the store in a seed, repeated on PostgreSQL and on SQLite's statements, both empty.

Every answer and error has to equal the one in the seed; at the end both have the same rows and the same
audit. So the histories of the simulation run on PostgreSQL, too, which has no virtual time.
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
from tests.simulation.store import Database, StoreCall
from tests.support import postgres
from tests.support.twins import TwinStore, comparable, refusal

BATCH = 250


@dataclass
class Replays:
    """The results of some seeds. `differed` describes the first difference of each seed that has one."""

    seeds: int = 0
    calls: int = 0
    differed: dict[int, str] = field(default_factory=dict[int, str])

    def add(self, other: Replays) -> None:
        self.seeds += other.seeds
        self.calls += other.calls
        self.differed.update(other.differed)


def histories(seeds: Iterable[int]) -> list[tuple[int, list[StoreCall]]]:
    """Returns all calls of the store in each seed, in the order in which they were executed."""
    recorded: list[tuple[int, list[StoreCall]]] = []
    with laboratory():
        database = Database()
        for number, seed in enumerate(seeds, 1):
            database.history = []
            run_seed(seed, database)
            recorded.append((seed, database.history))
            if number % 10 == 0:
                gc.collect()
    return recorded


class Replay:
    """Repeats histories on one store, whose schema is emptied before each."""

    def __init__(self, server: postgres.Database) -> None:
        self._server = server
        self._now = 0

    async def __call__(self, histories: Iterable[tuple[int, list[StoreCall]]]) -> Replays:
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

    async def _again(self, history: Sequence[StoreCall], store: PostgresStore) -> None:
        """Raises AssertionError at the first answer, or row, that differs."""
        twins = TwinStore(store, MemoryStore(clock=lambda: self._now, shared=True))
        for number, call in enumerate(history, 1):
            self._now = call.at
            try:
                await _repeat(twins, call)
            except AssertionError as error:
                raise AssertionError(f"call {number} of {len(history)}: {error}") from None
        await twins.compare_tables()


async def _repeat(twins: Any, call: StoreCall) -> None:
    answer, error = None, None
    try:
        answer = await getattr(twins, call.op)(*call.args, **call.kwargs)
    except AssertionError:
        raise
    except Exception as raised:  # noqa: BLE001 - the refusals are compared
        error = raised
    actual, expected = refusal(error), refusal(call.error)
    if call.error is None and error is None:
        actual, expected = comparable(call.op, answer), comparable(call.op, call.answer)
    assert actual == expected, f"{call.op}{call.args}: {actual}, in the simulation {expected}"


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
