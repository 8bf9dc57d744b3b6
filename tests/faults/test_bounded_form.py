"""A bounded form of `make faults`, and that it would notice what it is there to notice."""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from coordinator import Settings
from tests.faults.audit import audit
from tests.faults.fault import Fault
from tests.faults.file import GateCopied, Lock, Moved, TooBig
from tests.faults.measures import Book, percentile
from tests.faults.mortal import POINTS, Clock, MortalSQLite, Points
from tests.faults.outage import Full
from tests.faults.processes import Kill, Pause
from tests.faults.redis import BlackHole, DropReply, Refuse, Restart
from tests.faults.schedule import HOSTS, QUICK, SHORT_LEASE, Leg, legs_of, plan_for
from tests.faults.server import CutOff, ServerDiskFull, ServerFault
from tests.faults.sqlite import on_sqlite
from tests.faults.stage import set_up
from tests.faults.suite import SHORT_BUDGET, run_all
from tests.support.builders import new_worker

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

LEGS = {
    "kills": Leg("kills", QUICK, (*(Kill(point) for point in POINTS), Kill(), Kill())),
    "leases": Leg("leases", SHORT_LEASE, (Pause(), Kill()), hosts=HOSTS),
    "files": Leg("files", QUICK, (GateCopied(), Moved())),
    "redis": Leg("redis", QUICK, (Restart(), DropReply(), BlackHole(all_workers=False), Refuse("publish"))),
}


@pytest.mark.timeout(400)  # the search of the histories may take minutes, if it seldom does
@pytest.mark.parametrize("name", LEGS)
async def test_faults_do_no_harm(name: str, tmp_path: Path) -> None:
    book = Book()
    await run_all([LEGS[name]], 1, tmp_path, book, budget=SHORT_BUDGET)
    assert not book.violations
    assert len(book.skipped) <= 2, "undecided threads"
    assert book.counts["runs"] > 0
    assert sum(book.faults.values()) >= len(LEGS[name].faults)
    if book.counts["paused and declared dead"]:
        assert book.counts["tried by dead workers after waking: save"] > 0
        assert book.counts["tried by dead workers after waking: emit"] > 0


async def test_the_heartbeats_own_connection_has_the_clock_that_jumps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", time.time_ns)  # `Clock` replaces it
    clock = Clock()
    store = MortalSQLite(tmp_path / "runs.db", Points(), clock, None, Settings())
    await store.open()
    try:
        epoch = await store.register(new_worker())
        before = (await store.workers())[0].lease_until
        clock.jump = 3600
        with closing(store.heart()) as heart:
            assert heart.beat(epoch)
        assert (await store.workers())[0].lease_until - before >= 3600 * 1_000_000
    finally:
        await store.aclose()


async def test_accepted_write_of_a_dead_worker_is_detected(tmp_path: Path) -> None:
    """Without the witness in the file, "0 writes after waking" would prove nothing."""
    (tmp_path / "disk").mkdir()
    book = Book()
    async with (
        on_sqlite(tmp_path / "disk") as engine,
        set_up("forged", tmp_path, engine, QUICK, book, rng=random.Random(1)) as stage,
    ):
        await stage.quiet()
        epoch = (await stage.epochs(stage.slots[0]))[-1]
        run = await stage.slots[1].live.do("admit", thread="t")
        await stage.slots[1].live.wait_for("started", run)
        forge(engine.database, epoch, run)
        await audit(stage)
        await stage.slots[1].live.do("end", run=run)
    violations = [what for _, what in book.violations]
    assert f"run {run} of dead epoch {epoch} saved 7" in violations


def forge(database: Path, epoch: int, run: str) -> None:
    import sqlite3

    with closing(sqlite3.connect(database, timeout=10)) as cx, cx:
        cx.execute("UPDATE workers SET state = 'dead', fenced_by = 999 WHERE epoch = ?", (epoch,))
        value = f'{{"by": "{run}", "epoch": {epoch}, "n": 7}}'
        cx.execute('UPDATE threads SET "values" = ? WHERE thread_id = ?', (value, "t"))


def test_the_schedule_follows_from_the_seed() -> None:
    def described(seed: int) -> list[tuple[str, list[str]]]:
        legs = legs_of(plan_for(3), random.Random(seed))
        return [(leg.name, [fault.name for fault in leg.faults]) for leg in legs]

    assert described(7) == described(7)
    assert described(7) != described(8)


def every(kind: type[Fault]) -> set[type[Fault]]:
    return {kind}.union(*(every(below) for below in kind.__subclasses__()))


ONLY_ON: dict[str, set[type[Fault]]] = {
    "sqlite": {Lock, Full, GateCopied, Moved, TooBig},
    "postgres": {*every(ServerFault), CutOff, ServerDiskFull},
}
CONCRETE = {kind for kind in every(Fault) if not getattr(kind, "__abstractmethods__", None)}
LEAST = {
    ("sqlite", 3): {"kills": 60, "point": 4, "restarts": 1, "pauses": 1},
    ("sqlite", 30): {"kills": 1000, "point": 20, "restarts": 50, "pauses": 50},
    ("postgres", 3): {"kills": 15, "point": 1, "restarts": 1, "pauses": 1},
    ("postgres", 30): {"kills": 250, "point": 15, "restarts": 10, "pauses": 30},
}


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
@pytest.mark.parametrize("minutes", [3, 30])
def test_every_fault_strikes_and_the_long_form_reaches_its_numbers(minutes: int, store: str) -> None:
    faults: list[Fault] = [
        fault for leg in legs_of(plan_for(minutes, store), random.Random(1), store) for fault in leg.faults
    ]
    kinds = Counter(type(fault) for fault in faults)
    others = ONLY_ON["postgres" if store == "sqlite" else "sqlite"]
    assert CONCRETE - others == set(kinds)
    at_point = Counter(fault.point for fault in faults if isinstance(fault, Kill))
    least: dict[str, Any] = LEAST[store, minutes]
    assert kinds[Kill] >= least["kills"]
    assert all(at_point[point] >= least["point"] for point in POINTS)
    assert kinds[Restart] >= least["restarts"]
    assert kinds[Pause] >= least["pauses"]


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([], 0.99) == 0
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([1, 2], 0.99) == 2
