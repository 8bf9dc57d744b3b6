"""A worker may lose its lease without a fault, because the machine is busy: the checkers allow what its peers
then do, and count it."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.faults.measures import Book
from tests.faults.schedule import HOSTS, SHORT_LEASE
from tests.faults.sqlite import on_sqlite
from tests.faults.stage import PATIENCE, Stage, set_up
from tests.faults.suite import BOUND, SHORT_BUDGET, histories
from tests.histories import Line, check, read
from tests.histories.leases import lost_without_a_fault
from tests.support.waiting import wait_until

LOST = "leases lost without a fault"


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_lease_that_was_lost_without_a_fault_is_no_violation(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    book = Book()
    async with (
        on_sqlite(tmp_path / "disk") as engine,
        set_up("busy", tmp_path, engine, SHORT_LEASE, book, rng=random.Random(1), hosts=HOSTS) as stage,
    ):
        await held_up(stage)
        await stage.quiet()
        await stage.leave()
        report = await histories(stage, BOUND, SHORT_BUDGET)
    report.raise_if_violated()
    assert book.counts[LOST] > 0
    lines = read(*stage.folder.glob("*.jsonl"))
    assert not check(lines, bound=BOUND, budget=SHORT_BUDGET).ok


async def held_up(stage: Stage) -> None:
    """Stops a worker that has a run under way until a peer has declared it dead and has ended the run, which
    is observed. No line of the history names a fault."""
    slot = stage.slots[0]
    await slot.live.do("take_up")
    epoch = (await stage.epochs(slot))[-1]
    slot.live.send(signal.SIGSTOP)
    await wait_until(
        lambda: stage.is_dead(epoch), description="a peer declares the worker dead", timeout=PATIENCE
    )
    ended = (
        "SELECT run_id, thread_id, status FROM runs WHERE thread_id LIKE 'scribbler-%' AND status = 'error'"
    )
    await wait_until(lambda: stage.query(ended), description="its runs are ended", timeout=PATIENCE)
    run, thread, status = (await stage.query(ended))[0]
    with stage.test.call("get", run=run, thread=thread) as call:
        call.answer(status=status, source="store")
    slot.live.send(signal.SIGCONT)
    await wait_until(lambda: stage.is_anew(slot, epoch), description="it registers anew", timeout=PATIENCE)
    await slot.live.do("put_down")


def sample(what: str, at: int, *, worker: str = "a.1", epoch: int = 1) -> Line:
    return Line("sample", what, worker, at, at, args={"epoch": epoch})


def fault(what: str, at: int, worker: str) -> Line:
    return Line("fault", what, "test", at, at, args={"worker": worker})


LIVED = [sample("registered", 1), sample("fenced", 9)]


def test_the_loss_of_a_lease_is_dated_to_its_registration() -> None:
    (line,) = lost_without_a_fault([*LIVED, fault("killed", 20, "a.1"), fault("killed", 2, "b.1")])
    assert (line.kind, line.what, line.at, line.wall) == ("fault", "lost_lease", 1, 9)
    assert line.args["worker"] == "a.1"


@pytest.mark.parametrize("worker", ["a.1", "*"])
def test_a_lease_that_ends_after_a_fault_of_its_worker_is_not_excused_twice(worker: str) -> None:
    assert not lost_without_a_fault([*LIVED, fault("paused", 5, worker)])
