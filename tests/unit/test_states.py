"""The state machine, as data."""

from __future__ import annotations

import sqlite3

import pytest

from stores.memory import MemoryStore
from stores.states import OPEN, TERMINAL, TRANSITIONS, Phase, RunStatus, may_become, phase_of
from tests.support.inside_stores import connection_of


def test_there_are_exactly_six_statuses() -> None:
    assert [str(status) for status in RunStatus] == [
        "pending",
        "running",
        "success",
        "error",
        "timeout",
        "interrupted",
    ]
    assert set(RunStatus) == OPEN | TERMINAL
    assert not OPEN & TERMINAL


def test_a_terminal_status_is_final() -> None:
    for status in TERMINAL:
        assert TRANSITIONS[status] == frozenset()


def test_running_never_goes_back_and_pending_may_end_without_running() -> None:
    assert not may_become(RunStatus.running, RunStatus.pending)
    assert may_become(RunStatus.pending, RunStatus.error)
    assert may_become(RunStatus.pending, RunStatus.running)


def test_nothing_becomes_what_it_is() -> None:
    for status in RunStatus:
        assert not may_become(status, status)


@pytest.mark.parametrize(
    ("status", "holds", "rollback", "phase"),
    [
        (RunStatus.pending, False, False, Phase.waiting),
        (RunStatus.pending, True, False, Phase.pending),
        (RunStatus.running, True, False, Phase.running),
        (RunStatus.running, False, False, Phase.running),
        (RunStatus.interrupted, True, False, Phase.cancelling),
        (RunStatus.timeout, True, False, Phase.cancelling),
        (RunStatus.interrupted, True, True, Phase.rolling_back),
        (RunStatus.interrupted, False, True, Phase.done),
        (RunStatus.success, False, False, Phase.done),
    ],
)
def test_phases(status: RunStatus, phase: Phase, *, holds: bool, rollback: bool) -> None:
    assert phase_of(status, holds_thread=holds, rollback=rollback) is phase


@pytest.mark.parametrize("old", RunStatus)
@pytest.mark.parametrize("new", RunStatus)
async def test_the_database_itself_holds_the_table(old: RunStatus, new: RunStatus) -> None:
    """Also against an operator with a database shell: the trigger and TRANSITIONS allow the same."""
    store = MemoryStore()
    await store.put("r", thread_id="t", status=old)
    allowed = old is new or may_become(old, new)
    try:
        connection_of(store).execute("UPDATE runs SET status = ? WHERE run_id = 'r'", (new,))
    except sqlite3.IntegrityError:
        assert not allowed
    else:
        assert allowed
