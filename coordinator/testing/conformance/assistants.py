"""Conformance checks of assistants, on two workers, for any kind of state.

Nothing is assumed about the values but what the author of the assistant states: which input makes a run that
leaves entries in the state, and how to read them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.event_log import Event
from coordinator.manager import RunManager
from coordinator.record import RunRecord
from coordinator.schemas import StateView
from coordinator.testing.conformance.suite import Check, checks_of
from stores.json_values import Json

ENDLESS = 100_000
"""Steps of a run that is cancelled."""
_WITHIN = 20.0  # s


@dataclass(frozen=True)
class AssistantCase:
    """`first` and `second`: open managers on one store, each with its own object of the assistant `name`, and
    empty state. `input(steps, tag)`: the input of a run with so many steps of a few milliseconds, each of
    which appends one entry to the state and commits it; a run with `ENDLESS` steps is cancelled.
    `entries(values)`: the entries in the thread's values, in order, each containing its run's `tag`; [] for
    None."""

    first: RunManager
    second: RunManager
    name: str
    input: Callable[[int, str], Json]
    entries: Callable[[Json], list[Json]]

    async def begin(self, manager: RunManager, steps: int, tag: str, thread: str = "t") -> RunRecord:
        request = {"input": self.input(steps, tag), "stream_mode": ["values"]}
        record = await manager.create_or_reject(thread, self.name, kwargs=request)
        manager.launch(record)
        return record

    async def done(self, manager: RunManager, steps: int, tag: str, thread: str = "t") -> list[Json]:
        """Return the entries in the result of a run."""
        record = await self.begin(manager, steps, tag, thread)
        return self.entries(await manager.wait(record.run_id, timeout=_WITHIN))

    async def held(self, manager: RunManager, thread: str = "t") -> list[Json]:
        """Return the entries in the state of the thread."""
        return self.entries((await self.state(manager, thread)).values)

    async def state(self, manager: RunManager, thread: str = "t") -> StateView:
        view = await manager.threads.state(thread)
        assert view is not None, "a thread has a state"
        return view

    async def until(self, manager: RunManager, number: int) -> None:
        """Wait until the state has `number` entries."""
        until = time.monotonic() + _WITHIN
        while len(await self.held(manager)) < number:
            assert time.monotonic() < until, f"the run has not written {number} entries within {_WITHIN} s"
            await asyncio.sleep(0.01)


def _are_of(entries: list[Json], *tags: str) -> bool:
    return len(entries) == len(tags) and all(
        tag in str(entry) for entry, tag in zip(entries, tags, strict=True)
    )


async def runs_of_a_thread_build_on_each_other(case: AssistantCase) -> None:
    assert _are_of(await case.done(case.first, 2, "one"), "one", "one")
    assert _are_of(await case.done(case.second, 1, "two"), "one", "one", "two")


async def every_reader_gets_the_same_values(case: AssistantCase) -> None:
    result = await case.done(case.first, 3, "one")
    for manager in (case.first, case.second):
        assert await case.held(manager) == result
        assert case.entries((await manager.threads.get("t")).values) == result
        assert [case.entries(row.values) for row in await manager.threads.search()] == [result]


async def values_are_emitted_if_they_are_requested(case: AssistantCase) -> None:
    record = await case.begin(case.first, 3, "one")
    result = case.entries(await case.first.wait(record.run_id, timeout=_WITHIN))
    events = await case.second.events(record.run_id)
    values = [item.data for item in events if isinstance(item, Event) and item.mode == "values"]
    assert values, "an assistant with the feature `values` emits them"
    sizes = [len(case.entries(each)) for each in values]
    assert sizes == sorted(sizes), "the values of a run grow"
    assert case.entries(values[-1]) == result


async def cancelled_run_keeps_its_steps_and_writes_no_more(case: AssistantCase) -> None:
    run = await case.begin(case.first, ENDLESS, "one")
    await case.until(case.second, 2)
    assert await case.second.cancel(run.run_id, wait=10)
    kept = await case.held(case.second)
    assert len(kept) >= 2
    await asyncio.sleep(0.05)
    assert await case.held(case.second) == kept, "nothing of the run writes after it has stopped"
    new = await case.done(case.second, 1, "two")
    assert new[:-1] == kept
    assert _are_of(new[-1:], "two")


async def rolled_back_run_leaves_nothing(case: AssistantCase) -> None:
    before = await case.done(case.first, 2, "one")
    state = await case.state(case.first)
    run = await case.begin(case.first, ENDLESS, "undone")
    await case.until(case.second, 4)
    assert await case.second.cancel(run.run_id, action="rollback", wait=10)
    assert await case.held(case.second) == before
    assert (await case.state(case.second)).checkpoint == state.checkpoint
    assert case.entries((await case.first.threads.get("t")).values) == before
    assert _are_of(await case.done(case.second, 1, "two"), "one", "one", "two")


async def replacing_run_does_not_see_the_one_that_it_rolled_back(case: AssistantCase) -> None:
    await case.done(case.first, 1, "one")
    await case.begin(case.first, ENDLESS, "undone")
    await case.until(case.second, 3)
    record = await case.second.create_or_reject(
        "t", case.name, kwargs={"input": case.input(1, "two")}, multitask_strategy="rollback"
    )
    case.second.launch(record)
    result = case.entries(await case.second.wait(record.run_id, timeout=_WITHIN))
    assert _are_of(result, "one", "two")


async def copied_thread_has_the_state_and_goes_its_own_way(case: AssistantCase) -> None:
    before = await case.done(case.first, 2, "one")
    await case.second.threads.copy("t", "copy")
    assert await case.held(case.first, "copy") == before
    assert len(await case.done(case.second, 1, "two", "copy")) == 3
    assert await case.held(case.first) == before


async def deleted_thread_begins_anew(case: AssistantCase) -> None:
    await case.done(case.first, 2, "one")
    await case.second.threads.delete("t")
    assert _are_of(await case.done(case.first, 1, "two"), "two")


async def state_is_found_by_its_checkpoint(case: AssistantCase) -> None:
    await case.done(case.first, 2, "one")
    view = await case.state(case.first)
    assert view.checkpoint is not None
    assert view.checkpoint.checkpoint_id, "a state has an id"
    assert (view.next, view.interrupts) == ((), ()), "a finished run leaves no work"
    at = await case.second.threads.state("t", view.checkpoint)
    assert at is not None
    assert (at.values, at.checkpoint) == (view.values, view.checkpoint)
    past = [each async for each in case.second.threads.history("t", limit=100)]
    assert past[0].checkpoint == view.checkpoint
    older = [each.checkpoint async for each in case.second.threads.history("t", before=view.checkpoint)]
    assert older == [each.checkpoint for each in past[1 : 1 + len(older)]]
    assert not [each async for each in case.second.threads.history("t", namespace="no such subgraph")]


ASSISTANT: tuple[Check[AssistantCase], ...] = (
    *checks_of(
        runs_of_a_thread_build_on_each_other,
        every_reader_gets_the_same_values,
        promise="The state of a thread is the same on every worker.",
    ),
    *checks_of(values_are_emitted_if_they_are_requested, promise="Requested stream modes are emitted."),
    *checks_of(
        cancelled_run_keeps_its_steps_and_writes_no_more,
        promise="After `run` has ended, nothing of it writes.",
    ),
    *checks_of(
        rolled_back_run_leaves_nothing,
        replacing_run_does_not_see_the_one_that_it_rolled_back,
        promise="`restore` undoes all writes of a run, and no others.",
    ),
    *checks_of(
        copied_thread_has_the_state_and_goes_its_own_way,
        deleted_thread_begins_anew,
        promise="`copy` and `delete` are complete.",
    ),
    *checks_of(state_is_found_by_its_checkpoint, promise="States are named by their checkpoints."),
)
