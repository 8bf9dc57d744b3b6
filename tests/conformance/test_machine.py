"""Random sequences of calls, on every store, against one model.

The suite always has the same examples. With MACHINE_EXAMPLES=5000 they are random; a failing one is printed.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from stores.base import CoordinationStore
from stores.memory import MemoryStore
from stores.sql.sqlite import admission, ownership, pruning, threads, workers
from stores.sqlite import SQLiteStore
from tests.conformance.run_store.machine import OpenStore, machine_over
from tests.conformance.run_store.passing import passing_machine_over
from tests.support.builders import StoreClock
from tests.support.postgres import Database
from tests.support.twins import TwinStore

SLOW_IS_FINE = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)
Over = Callable[[OpenStore], type[RuleBasedStateMachine]]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("untraced")]
EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "0"))


@asynccontextmanager
async def memory(clock: StoreClock) -> AsyncGenerator[CoordinationStore]:
    yield MemoryStore(clock=clock)


@asynccontextmanager
async def sqlite(clock: StoreClock) -> AsyncGenerator[CoordinationStore]:
    with TemporaryDirectory() as folder:
        store = SQLiteStore(Path(folder) / "runs.db", clock=clock, synchronous="NORMAL")
        await store.open()
        try:
            yield store
        finally:
            await store.aclose()


def postgres(database: Database) -> OpenStore:
    """With its twin, so that the audit of every sequence is compared with SQLite's."""

    @asynccontextmanager
    async def open_store(clock: StoreClock) -> AsyncGenerator[Any]:
        async with database.store(clock=clock) as store:
            twins = TwinStore(store, MemoryStore(clock=clock, shared=True))
            yield twins
            await twins.compare_tables()

    return open_store


def run_machine(over: Over, open_store: OpenStore, examples: int) -> None:
    run_state_machine_as_test(
        over(open_store),
        settings=settings(
            max_examples=EXAMPLES or examples,
            stateful_step_count=60 if EXAMPLES else 40,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=SLOW_IS_FINE,
        ),
    )


@pytest.mark.timeout(3600 if EXAMPLES else 300)
@pytest.mark.parametrize(
    ("over", "open_store", "examples"),
    [
        (machine_over, memory, 60),
        (machine_over, sqlite, 15),
        (passing_machine_over, memory, 30),
        (passing_machine_over, sqlite, 10),
    ],
    ids=["runs, memory", "runs, sqlite", "threads, memory", "threads, sqlite"],
)
def test_the_store_does_what_the_model_does(over: Over, open_store: OpenStore, examples: int) -> None:
    run_machine(over, open_store, examples)


@pytest.mark.timeout(3600 if EXAMPLES else 300)
@pytest.mark.parametrize("over", [machine_over, passing_machine_over], ids=["runs", "threads"])
def test_so_does_postgres(over: Over, shared_postgres: Database) -> None:
    run_machine(over, postgres(shared_postgres), 10)


def rewrite(
    patch: pytest.MonkeyPatch, module: ModuleType, name: str, part: str | re.Pattern[str], by: str
) -> None:
    """Replace a part of a statement, which must contain it."""
    statement: str = getattr(module, name)
    weak = statement.replace(part, by) if isinstance(part, str) else part.sub(by, statement)
    assert weak != statement
    patch.setattr(module, name, weak)


def no_live_epoch_in_claim(patch: pytest.MonkeyPatch) -> None:
    def no_epoch_is_dead(cx: Any, epoch: int) -> bool:
        return False

    patch.setattr(admission, "is_dead", no_epoch_is_dead)


def a_fenced_owner_finishes(patch: pytest.MonkeyPatch) -> None:
    rewrite(patch, ownership, "_FINISH", f" AND {ownership.LIVE}", "")


def an_old_fence_finishes(patch: pytest.MonkeyPatch) -> None:
    rewrite(patch, ownership, "_FINISH", " AND fence = :fence", "")


def finish_frees_before_the_undo(patch: pytest.MonkeyPatch) -> None:
    rewrite(patch, ownership, "_FINISH", "cancel_action IS NOT 'rollback'", "1")


def the_heartbeat_is_not_compared(patch: pytest.MonkeyPatch) -> None:
    strong = workers.fence_worker

    def weak(cx: Any, now: int, epoch: int, hb_seq: int, by: int, *, proven: bool) -> bool:
        (hb_seq,) = cx.execute("SELECT hb_seq FROM workers WHERE epoch = ?", (epoch,)).fetchone()
        return strong(cx, now, epoch, hb_seq, by, proven=proven)

    patch.setattr(workers, "fence_worker", weak)


def the_last_run_is_pruned(patch: pytest.MonkeyPatch) -> None:
    rewrite(patch, pruning, "_DATED", re.compile(r"run_id = \(SELECT.*?LIMIT 1\)"), "0")


def keys_are_forgotten_with_the_rest(patch: pytest.MonkeyPatch) -> None:
    rewrite(patch, pruning, "_DATED", "idempotency_key IS NULL", "1")


def threads_expire_under_their_runs(patch: pytest.MonkeyPatch) -> None:
    rewrite(patch, threads, "_EXPIRED", re.compile(r" AND NOT EXISTS.*(?= ORDER)"), "")


COMMON = (no_live_epoch_in_claim, the_heartbeat_is_not_compared, the_last_run_is_pruned)
PASSING = (threads_expire_under_their_runs,)
RARE = (
    a_fenced_owner_finishes,
    an_old_fence_finishes,
    finish_frees_before_the_undo,
    keys_are_forgotten_with_the_rest,
)
"""Found within 300 examples, some 15 s for each weakness: only in the long form."""


@pytest.mark.parametrize(
    ("over", "weaken"),
    [(machine_over, weaken) for weaken in ((*COMMON, *RARE) if EXAMPLES else COMMON)]
    + [(passing_machine_over, weaken) for weaken in PASSING],
    ids=lambda what: what.__name__,
)
def test_a_weakened_store_is_found(over: Over, weaken: Callable[[pytest.MonkeyPatch], None]) -> None:
    budget = settings(
        max_examples=300,
        stateful_step_count=40,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,  # one is enough
        suppress_health_check=SLOW_IS_FINE,
    )
    with pytest.MonkeyPatch.context() as patch:
        weaken(patch)
        with pytest.raises(AssertionError):
            run_state_machine_as_test(over(memory), settings=budget)
