"""Stores that break one promise each: the kit notices, and names the promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from inspect import getattr_static, iscoroutinefunction
from typing import Any

import pytest

from coordinator.testing import conformance
from coordinator.testing.conformance import Check, StoreCase, StoreClock
from coordinator.testing.conformance.stores.fields import EFFECTS, WITHOUT_COLUMN, another
from stores.base import CoordinationStore
from stores.errors import ConflictError
from stores.finding import ListPosition, RunQuery
from stores.memory import MemoryStore
from stores.rows import Admission, Decision, Finish, Limits, NextStart, Outcome, Ownership, RunRow
from stores.spec import COLUMN_NAMES, ROLES, AdmissionRequest, default_of
from stores.states import RunStatus
from tests.support.builders import sql_of

pytestmark = pytest.mark.usefixtures("no_task_left")

CHECKS: dict[str, Check[StoreCase]] = {check.name: check for check in conformance.STORE}


def opening(kind: type[MemoryStore]) -> Callable[[], Any]:
    @asynccontextmanager
    async def make() -> AsyncGenerator[StoreCase]:
        clock = StoreClock()
        yield StoreCase(kind(clock=clock), clock)

    return make


async def failure_of(kind: type[MemoryStore], check: str, monkeypatch: pytest.MonkeyPatch) -> Exception:
    """What an author sees who runs the suite. Other checks are left out, which may fail as well."""
    monkeypatch.setattr(conformance, "STORE", (CHECKS[check],))
    with pytest.raises(ExceptionGroup) as failed:
        await conformance.store(opening(kind))
    [error] = failed.value.exceptions
    assert CHECKS[check].promise in str(failed.value)
    assert error.__notes__ == [f"conformance check: {check}", f"broken promise: {CHECKS[check].promise}"]
    return error


# -- calls that ignore something


def without_field(name: str) -> type[MemoryStore]:
    """Its `admit` drops a field of the spec."""

    class Drops(MemoryStore):
        async def admit(self, request: AdmissionRequest, *, epoch: int, limits: Limits) -> Admission:
            spec = replace(request.spec, **{name: default_of(name)})
            return await super().admit(request._replace(spec=spec), epoch=epoch, limits=limits)

    return Drops


def without_user(name: str) -> type[MemoryStore]:
    """A call of it ignores the user."""

    async def call(self: MemoryStore, *args: Any, **kwargs: Any) -> Any:
        return await getattr(MemoryStore, name)(self, *args, **{**kwargs, "user_id": None})

    return type("AnyUser", (MemoryStore,), {name: call})


def without_part_of_outcome(name: str) -> type[MemoryStore]:
    class Drops(MemoryStore):
        async def finish(
            self, own: Ownership, outcome: Outcome, *, hold: bool = False, following: NextStart | None = None
        ) -> Finish:
            kept = outcome._replace(**{name: getattr(Outcome(outcome.status), name)})
            return await super().finish(own, kept, hold=hold, following=following)

    return Drops


@pytest.mark.parametrize("name", [name for name in COLUMN_NAMES if name != "thread_id"])
async def test_dropped_column_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = await failure_of(without_field(name), "columns_survive['admit']", monkeypatch)
    assert "broken promise: a run's row has every field of its request" in str(error)
    assert f"column {name}" in str(error)


@pytest.mark.parametrize("name", WITHOUT_COLUMN)
async def test_ignored_field_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check = f"field_without_a_column_takes_effect[{name!a:.20}]"
    assert await failure_of(without_field(name), check, monkeypatch)


@pytest.mark.parametrize("name", [name for name in Outcome._fields if name != "status"])
async def test_dropped_part_of_an_outcome_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = await failure_of(without_part_of_outcome(name), "outcomes_are_kept", monkeypatch)
    assert f"broken promise: a run's row has every field of its outcome: {name} of a run" in str(error)


def test_walk_has_another_value_for_every_field() -> None:
    assert [name for name in ROLES if another(name) == default_of(name)] == []
    assert EFFECTS.keys() == {*WITHOUT_COLUMN}


USERS = {
    "find_runs": "user_searches_its_own_runs",
    "open_run_ids": "user_searches_its_own_runs",
    "patch_thread": "user_changes_its_own_threads_and_runs['u']",
    "update_extra": "user_changes_its_own_threads_and_runs['u']",
    "thread_runs": "user_sees_its_own_runs",
    "inflight_runs": "user_sees_its_own_runs",
    "delete_run": "user_sees_its_own_runs",
    "threads": "user_finds_its_own_threads",
    "count_threads": "user_finds_its_own_threads",
    "row": "user_sees_its_own_runs",
    "get": "user_sees_its_own_runs",
    "run": "user_sees_its_own_runs",
    "thread": "user_sees_its_own_runs",
    "thread_of_key": "key_leads_its_user_to_the_thread_of_its_run",
    "list_by_thread": "user_sees_its_own_runs",
    "started_runs": "runs_of_a_thread_are_in_the_order_in_which_they_took_it",
}
"""Calls with a user, and the check that notices where they ignore it."""


@pytest.mark.parametrize("name", USERS)
async def test_ignored_user_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await failure_of(without_user(name), USERS[name], monkeypatch)


# -- calls that do nothing

NOTHING: dict[str, str] = {
    "admit": "idle_thread_is_taken_with_a_new_fence['reject']",
    "beat": "beat_renews_the_lease_until_the_worker_is_fenced",
    "checkpoints": "run_that_wrote_values_has_left_a_checkpoint",
    "claim": "runs_take_the_thread_in_the_order_of_admission",
    "claimable": "claimable_runs_are_those_of_each_user_in_turn",
    "claimable_children": "claimable_children_are_those_of_runs_that_the_worker_executes",
    "claimants": "claimants_are_the_live_workers_that_may_claim_for_the_head",
    "count_threads": "page_of_threads_has_none_of_another_page",
    "create_thread": "page_of_threads_has_none_of_another_page",
    "decide": "first_action_over_a_run_stays",
    "declare_dead": "worker_is_declared_dead_on_the_word_of_an_actor",
    "delete": "record_is_deleted_with_its_audit",
    "delete_run": "user_sees_its_own_runs",
    "delete_thread": "thread_is_deleted_by_the_operation_that_holds_it",
    "drain": "draining_worker_admits_nothing_and_hands_over_what_waits",
    "expire_threads": "thread_with_a_time_to_live_is_removed_after_it",
    "fence_worker": "worker_that_renews_after_it_was_read_is_not_fenced",
    "find_runs": "runs_are_searched_by_every_filter",
    "finish": "idle_thread_is_taken_with_a_new_fence['reject']",
    "get": "outcomes_are_kept",
    "hand_over": "run_that_waits_outlives_any_number_of_drains",
    "has_expired_threads": "thread_with_a_time_to_live_is_removed_after_it",
    "holder": "withdrawal_frees_what_its_caller_left['a waiting run']",
    "ids_from": "ids_are_matched_by_their_prefix['run']",
    "inflight_runs": "runs_in_flight_are_in_the_order_of_their_ids_in_pages",
    "insert": "columns_survive['insert']",
    "keep_latest_checkpoint": "latest_checkpoint_alone_is_kept",
    "list_by_thread": "records_are_newest_first_with_ties_in_order_of_insertion",
    "list_inflight": "records_in_flight_are_oldest_first",
    "open_run_ids": "decided_run_is_not_open",
    "patch_thread": "user_changes_its_own_threads_and_runs['u']",
    "pending_on": "answered_writes_are_read_at_once",
    "put": "records_keep_their_fields",
    "readopt": "rollback_that_fails_has_three_attempts_each_with_a_newer_fence",
    "refence": "refence_refuses_the_old_fence",
    "register": "restart_is_a_new_epoch",
    "request_drain": "requested_drain_is_read_by_the_tick_of_its_worker",
    "restore": "rollback_holds_the_thread_until_its_values_are_back",
    "retire": "restart_is_a_new_epoch",
    "row": "user_sees_its_own_runs",
    "run": "user_sees_its_own_runs",
    "runs": "admission_is_repeatable['enqueue']",
    "save": "rollback_holds_the_thread_until_its_values_are_back",
    "settle": "run_settles_once",
    "standing": "answered_writes_are_read_at_once",
    "start": "start_is_repeatable",
    "started_runs": "runs_of_a_thread_are_in_the_order_in_which_they_took_it",
    "sweep": "sweep_ends_the_runs_of_dead_workers_alone",
    "thread": "user_sees_its_own_runs",
    "thread_of_key": "key_leads_its_user_to_the_thread_of_its_run",
    "thread_runs": "runs_of_a_thread_are_newest_first_in_pages",
    "threads": "page_of_threads_has_none_of_another_page",
    "tick": "requested_drain_is_read_by_the_tick_of_its_worker",
    "transitions": "run_settles_once",
    "unclaimed": "unclaimed_runs_are_counted_by_assistant",
    "update_extra": "user_changes_its_own_threads_and_runs['u']",
    "update_model_name": "model_of_a_record_is_updated",
    "update_run_completion": "completion_of_a_record_is_kept",
    "update_run_progress": "progress_is_written_only_while_running",
    "update_status": "status_of_a_record_is_updated_until_it_is_terminal",
    "waiting_line": "runs_in_flight_are_decided_and_the_new_run_waits['interrupt']",
    "withdraw": "withdrawal_frees_what_its_caller_left['a run that holds']",
    "workers": "restart_is_a_new_epoch",
}
"""Every call of the port, and a check that notices where it does nothing."""


def calls() -> dict[str, Any]:
    names = [name for name in dir(CoordinationStore) if not name.startswith("_")]
    functions = {name: getattr_static(CoordinationStore, name) for name in names}
    return {name: each for name, each in functions.items() if iscoroutinefunction(each)}


def does_nothing(name: str) -> type[MemoryStore]:
    """Answers as if the call had worked, or had matched nothing."""
    answer = str(calls()[name].__annotations__["return"])
    value: Any = [] if answer.startswith(("list", "Page")) else {"bool": True, "int": 0}.get(answer)

    async def call(self: MemoryStore, *args: Any, **kwargs: Any) -> Any:
        return value

    return type("DoesNothing", (MemoryStore,), {name: call})


def test_every_call_of_the_port_has_a_check() -> None:
    assert NOTHING.keys() == calls().keys() - {"open", "aclose"}
    assert {*NOTHING.values(), *USERS.values()} <= CHECKS.keys()


@pytest.mark.parametrize("name", NOTHING)
async def test_call_that_does_nothing_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await failure_of(does_nothing(name), NOTHING[name], monkeypatch)


# -- calls that do something else


class QueuesRejects(MemoryStore):
    async def admit(self, request: AdmissionRequest, *, epoch: int, limits: Limits) -> Admission:
        """Reads whether the thread is free, and later relies on that."""
        if request.spec.multitask_strategy != "reject":
            return await super().admit(request, epoch=epoch, limits=limits)
        holder = await self.holder(request.spec.thread_id)
        await asyncio.sleep(0)
        try:
            return await super().admit(request, epoch=epoch, limits=limits)
        except ConflictError:
            if holder is not None:
                raise
            spec = replace(request.spec, multitask_strategy="enqueue")
            return await super().admit(request._replace(spec=spec), epoch=epoch, limits=limits)


class RepeatsRows(MemoryStore):
    async def find_runs(
        self, query: RunQuery, *, user_id: str | None, behind: ListPosition | None, limit: int
    ) -> list[RunRow]:
        return await super().find_runs(query, user_id=user_id, behind=None, limit=limit)


class OneRowShort(MemoryStore):
    async def find_runs(
        self, query: RunQuery, *, user_id: str | None, behind: ListPosition | None, limit: int
    ) -> list[RunRow]:
        rows = await super().find_runs(query, user_id=user_id, behind=behind, limit=limit)
        return rows[:-1] if len(rows) == limit else rows


class IgnoresLimits(MemoryStore):
    async def admit(self, request: AdmissionRequest, *, epoch: int, limits: Limits) -> Admission:
        return await super().admit(request, epoch=epoch, limits=Limits())


class ForgetsChildren(MemoryStore):
    async def decide(self, run_id: str, status: RunStatus, **fields: Any) -> Any:
        sql_of(self)("UPDATE runs SET parent_run_id = NULL WHERE parent_run_id = ?", run_id)
        return await super().decide(run_id, status, **fields)


class TwoHolders(MemoryStore):
    async def admit(self, request: AdmissionRequest, *, epoch: int, limits: Limits) -> Admission:
        """A run that waits is reported as the holder of the thread."""
        return (await super().admit(request, epoch=epoch, limits=limits))._replace(holds=True)


class LosesCancels(MemoryStore):
    async def decide(self, run_id: str, status: RunStatus, **fields: Any) -> Decision | None:
        """Answers a cancel of a running run without writing it."""
        standing = await self.standing(run_id)
        if standing is None or standing.status is not RunStatus.running:
            return await super().decide(run_id, status, **fields)
        return standing._replace(status=status, won=True, action=fields["action"], cause=fields["cause"])


class SettlesTwice(MemoryStore):
    async def settle(self, own: Ownership, outcome: Outcome, rollback_state: str | None = None) -> Finish:
        """A repeated settle writes the time of its end again."""
        row = await self.row(own.run_id)
        finish = await super().settle(own, outcome, rollback_state)
        if row is not None and row.settled:
            sql_of(self)("UPDATE runs SET settled_at = ? WHERE run_id = ?", self._now(), own.run_id)
        return finish


class SettlesWithoutLogEnd(MemoryStore):
    async def settle(self, own: Ownership, outcome: Outcome, rollback_state: str | None = None) -> Finish:
        return await super().settle(own, outcome._replace(log_end=None), rollback_state)


class GuessesLogEnds(MemoryStore):
    async def sweep(self, **options: Any) -> Any:
        """A run that it ends is stored as one without events."""
        orphans = await super().sweep(**options)
        for orphan in orphans:
            sql_of(self)("UPDATE runs SET log_end = 0 WHERE run_id = ?", orphan.run_id)
        return orphans


BROKEN: tuple[tuple[type[MemoryStore], str, str], ...] = (
    (TwoHolders, "of_concurrent_admissions_one_holds", "one run holds a thread"),
    (LosesCancels, "cancel_is_read_by_its_owner_until_it_settles", "a cancel that was answered is not lost"),
    (SettlesTwice, "run_settles_once", "a run is decided once and settles once"),
    *(
        (kind, "end_of_a_log_is_known_from_the_owner_alone", "a run's row has every field of its outcome")
        for kind in (SettlesWithoutLogEnd, GuessesLogEnds)
    ),
    (QueuesRejects, "of_concurrent_rejects_one_is_admitted", "a run is admitted by its strategy"),
    (
        RepeatsRows,
        "runs_that_are_searched_are_on_one_page_each",
        "a list has one order, and its pages have each row once",
    ),
    (
        OneRowShort,
        "runs_that_are_searched_are_on_one_page_each",
        "a list has one order, and its pages have each row once",
    ),
    (IgnoresLimits, "queue_is_bounded_per_thread_and_per_user", "a queue gets no longer than its limits"),
    (
        without_field("delay_ms"),
        "delayed_run_waits_for_its_time_on_an_idle_thread",
        "a delayed run waits until its time has come",
    ),
    (
        ForgetsChildren,
        "decided_parent_cancels_its_children",
        "a run that ends without success takes its children along, and no other run",
    ),
)


@pytest.mark.parametrize(("kind", "check", "promise"), BROKEN)
async def test_broken_promise_is_noticed(
    kind: type[MemoryStore], check: str, promise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"broken promise: {promise}: " in str(await failure_of(kind, check, monkeypatch))


async def test_check_that_is_run_by_itself_names_its_promise() -> None:
    async with opening(IgnoresLimits)() as case:
        with pytest.raises(AssertionError) as failed:
            await CHECKS["queue_is_bounded_per_thread_and_per_user"](case)
    assert str(failed.value).startswith("broken promise: a queue gets no longer than its limits: ")
    assert "conformance check: queue_is_bounded_per_thread_and_per_user" in failed.value.__notes__
