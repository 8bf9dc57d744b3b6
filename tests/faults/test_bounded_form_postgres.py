"""A bounded form of `make faults ARGS="--store postgres"`, and that it would notice what it is there for."""

from __future__ import annotations

import random
from pathlib import Path

import asyncpg
import pytest

from tests.faults.audit import audit
from tests.faults.measures import Book
from tests.faults.postgres import Postgres, on_postgres
from tests.faults.processes import Kill, Pause
from tests.faults.redis import Restart
from tests.faults.schedule import DEFAULTS, QUICK, SHORT_LEASE, Leg
from tests.faults.server import CutOff, LostAnswers, ServerRestart, Storm
from tests.faults.stage import set_up
from tests.faults.suite import SHORT_BUDGET, run_all

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

LEGS = {
    "kills": Leg("kills", SHORT_LEASE, (Kill("admitted"), Kill("fenced")), store="postgres"),
    "leases": Leg("leases", SHORT_LEASE, (Pause(), CutOff()), store="postgres"),
    "outages": Leg(
        "outages", DEFAULTS, (Restart(), ServerRestart(), Storm(), LostAnswers()), store="postgres"
    ),
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
    if name == "leases":
        assert book.counts["paused and declared dead"]
        assert book.counts["cut off and declared dead"]
        assert book.counts["tried by dead workers after waking: save"] > 0
        assert book.counts["tried by dead workers after waking: emit"] > 0
    if name == "outages":
        assert book.counts["sessions ended in storms"] > 0
        assert book.counts["answers of the store lost"] == 10


async def test_accepted_write_of_a_dead_worker_is_detected(tmp_path: Path) -> None:
    """Without the witness in the schema, "0 writes after waking" would prove nothing."""
    book = Book()
    async with (
        on_postgres() as engine,
        set_up("forged", tmp_path, engine, QUICK, book, rng=random.Random(1)) as stage,
    ):
        await stage.quiet()
        epoch = (await stage.epochs(stage.slots[0]))[-1]
        run = await stage.slots[1].live.do("admit", thread="t")
        await stage.slots[1].live.wait_for("started", run)
        await forge(engine, epoch, run)
        await audit(stage)
        await stage.slots[1].live.do("end", run=run)
    violations = [what for _, what in book.violations]
    assert f"run {run} of dead epoch {epoch} saved 7" in violations


async def forge(engine: Postgres, epoch: int, run: str) -> None:
    cx = await asyncpg.connect(engine.server.url(), server_settings={"search_path": engine.name})
    try:
        await cx.execute("UPDATE workers SET state = 'dead', fenced_by = 999 WHERE epoch = $1", epoch)
        value = f'{{"by": "{run}", "epoch": {epoch}, "n": 7}}'
        await cx.execute('UPDATE threads SET "values" = $1 WHERE thread_id = $2', value, "t")
    finally:
        await cx.close()
