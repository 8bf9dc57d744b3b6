"""A run of a worker is in one state, and goes from each only to those that the table names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields

import pytest

from coordinator.record import RunRecord
from coordinator.runs.entry import Entry
from coordinator.runs.states import (
    TRANSITIONS,
    Closing,
    End,
    Hold,
    Holding,
    Lost,
    Released,
    Settled,
    State,
    Stopping,
    Waiting,
)
from coordinator.runs.work import Work
from coordinator.schemas import Abort, CancelAction, Cause, DisconnectMode, RunStatus
from stores.rows import Claimed, Outcome, Ownership

ABORT = Abort(RunStatus.interrupted, CancelAction.interrupt, Cause.user)
OWN = Ownership("r", "t", epoch=1, fence=1)
STAMP = "2026-01-01T00:00:00+00:00"
MOST_FIELDS = 12


def entry_of(own: Ownership | None = None) -> Entry:
    return Entry(RunRecord("r", "t", None, RunStatus.pending, DisconnectMode.cancel), own)


STEPS: dict[str, Callable[[Entry], object]] = {
    "claim": lambda entry: entry.take_thread(Claimed("r", 2), 1),
    "stop": lambda entry: entry.stop(ABORT, STAMP),
    "close": lambda entry: entry.close(),
    "lose": lambda entry: entry.lose(),
    "settle": lambda entry: entry.settle(RunStatus.success, None, STAMP),
}
WAYS: dict[type[State], tuple[Ownership | None, tuple[str, ...]]] = {
    Waiting: (None, ()),
    Holding: (OWN, ()),
    Stopping: (OWN, ("stop",)),
    Closing: (OWN, ("close",)),
    Lost: (OWN, ("stop", "lose")),
    Settled: (OWN, ("close", "settle")),
    Released: (OWN, ("stop", "lose", "settle")),
}
"""How a run gets into each state."""


def entry_in(state: type[State]) -> Entry:
    own, steps = WAYS[state]
    entry = entry_of(own)
    for step in steps:
        STEPS[step](entry)
    assert isinstance(entry.state, state)
    return entry


LEADS: dict[type[State], tuple[type[State] | None, ...]] = {
    # claim, stop, close, lose, settle
    Waiting: (Holding, Stopping, Waiting, Lost, Settled),
    Holding: (Holding, Stopping, Closing, Lost, None),
    Stopping: (Stopping, None, Closing, Lost, Settled),
    Closing: (Closing, Closing, Closing, Lost, Settled),
    Lost: (Lost, None, Lost, None, Released),
    Settled: (Settled, None, Settled, None, None),
    Released: (Released, None, Released, None, None),
}
"""Where each step leads; None = it is refused, the same state = it has none to leave."""
MOVES = [(state, step, to) for state, leads in LEADS.items() for step, to in zip(STEPS, leads, strict=True)]


@pytest.mark.parametrize(("state", "step", "to"), MOVES)
def test_each_step_leads_to_the_state_of_the_table(
    state: type[State], step: str, to: type[State] | None
) -> None:
    entry = entry_in(state)
    if to is None:
        with pytest.raises(AssertionError):
            STEPS[step](entry)
    else:
        STEPS[step](entry)
    assert entry.state.__class__ is (to or state)


async def test_the_table_has_no_way_that_no_step_takes() -> None:
    in_vain = entry_of()
    in_vain.settling = asyncio.get_running_loop().create_future()  # its task was over before its turn
    STEPS["claim"](in_vain)
    assert isinstance(in_vain.state, Closing), "it has its thread only to give it back"
    taken = {(Waiting, Closing)} | {(state, to) for state, _, to in MOVES if to not in (None, state)}
    assert taken == {(state, to) for state, after in TRANSITIONS.items() for to in after}


def test_waiting_and_the_end_states_have_no_way_back() -> None:
    assert not any(Waiting in after for after in TRANSITIONS.values())
    assert TRANSITIONS[Settled] == TRANSITIONS[Released] == frozenset()
    assert TRANSITIONS[Lost] == {Released}, "a lost run is never settled here"


@pytest.mark.parametrize("state", TRANSITIONS)
def test_no_state_has_more_fields_than_a_reader_can_keep_in_mind(state: type[State]) -> None:
    assert len(fields(state)) + len(Entry.__slots__) <= MOST_FIELDS
    assert max(map(len, (Work.__slots__, Hold.__slots__, End.__slots__))) <= MOST_FIELDS


def test_a_lost_run_has_no_end_to_write() -> None:
    entry = entry_of(OWN)
    entry.report(Outcome(RunStatus.success))
    entry.set_unwritten(ABORT)
    entry.stop(ABORT, STAMP)
    entry.lose()
    entry.report(Outcome(RunStatus.success))
    assert (entry.outcome, entry.unwritten) == (None, None)


def test_a_waiting_run_is_woken_by_whatever_ends_its_waiting() -> None:
    for step in ("claim", "stop", "lose", "settle"):
        entry = entry_of()
        assert isinstance(entry.state, Waiting)
        turn = entry.state.turn
        assert not turn.is_set()
        STEPS[step](entry)
        assert turn.is_set()


def test_a_decision_that_comes_while_the_end_is_written_is_kept() -> None:
    entry = entry_in(Closing)
    entry.stop(ABORT, STAMP)
    assert (entry.abort, entry.record.status) == (ABORT, RunStatus.interrupted)


def test_a_settled_run_keeps_nothing_that_only_a_running_one_needs() -> None:
    entry = entry_in(Settled)
    hold = entry.state.hold
    assert hold is not None
    assert (hold.context, hold.states, hold.rollback_ref) == (None, None, None)
    assert (entry.outcome, entry.timers, entry.work.tracked, entry.work.force) == (None, None, None, None)


def test_a_late_claim_does_not_change_the_fence() -> None:
    entry = entry_of(OWN)
    entry.take_thread(Claimed("r", 7), 1)
    assert entry.own == OWN
