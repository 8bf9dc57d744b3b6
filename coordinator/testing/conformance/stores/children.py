"""Runs with a parent: what the end of a parent does to its children, and which parents a run may have."""

from __future__ import annotations

from coordinator.testing.conformance.stores.builders import (
    SUCCESS,
    Field,
    StoreCase,
    admitted,
    decided,
    declared_dead,
    row_of,
    running,
    waiting,
)
from coordinator.testing.conformance.suite import Check, checks_for, checks_of, refused
from stores.base import CoordinationStore
from stores.errors import ParentEnded, RunNotFound
from stores.rows import Outcome, Ownership
from stores.states import Cause, RunStatus

Ends = set[tuple[RunStatus, Cause | None, bool]]


async def family(store: CoordinationStore, me: int, peer: int) -> tuple[Ownership, list[str]]:
    """A parent, a child and a grandchild that run on two workers, and a queued child."""
    parent = await running(store, me, "a")
    child = await running(store, peer, "b", parent_run_id=parent.run_id)
    grandchild = await running(store, me, "c", parent_run_id=child.run_id)
    waits = await waiting(store, peer, "c", parent_run_id=parent.run_id)
    return parent, [child.run_id, grandchild.run_id, waits]


async def ends(store: CoordinationStore, runs: list[str]) -> Ends:
    rows = [await row_of(store, run_id) for run_id in runs]
    return {(row.status, row.cancel_cause, row.settled) for row in rows}


async def decided_parent_cancels_its_children(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    parent, children = await family(store, me, peer)
    decision = await decided(store, parent.run_id)
    assert {child.run_id for child in decision.children} == set(children)
    assert await ends(store, children[:2]) == {(RunStatus.interrupted, Cause.parent, False)}
    assert await ends(store, children[2:]) == {(RunStatus.interrupted, Cause.parent, True)}
    assert (await store.tick(peer)).cancelled == (children[0],), "its owner reads it without any hint"
    reason = (await row_of(store, children[0])).cancel_reason
    assert reason == f"run {parent.run_id} ended: interrupted"
    assert (await store.transitions(children[1]))[-1].cause is Cause.parent


async def parent_that_ends_without_success_cancels_its_children(case: StoreCase, how: str) -> None:
    store, (me, peer) = case.store, await case.workers()
    parent, children = await family(store, me, peer)
    if how == "finish":
        await store.finish(parent, Outcome(RunStatus.error, error="x"))
    elif how == "update_status":
        await store.update_status(parent.run_id, "error", error="x")
    else:
        await declared_dead(store, me, by=peer)
        await store.sweep(by=peer, error="gone")
    assert {end[:2] for end in await ends(store, children)} == {(RunStatus.interrupted, Cause.parent)}


async def parent_that_succeeds_leaves_its_children(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    parent, children = await family(store, me, peer)
    await store.finish(parent, SUCCESS)
    assert {end[:2] for end in await ends(store, children)} == {
        (RunStatus.running, None),
        (RunStatus.pending, None),
    }


async def end_of_a_child_stands(case: StoreCase) -> None:
    store, (me, peer) = case.store, await case.workers()
    parent = await running(store, me, "a")
    child = await running(store, peer, "b", parent_run_id=parent.run_id)
    grandchild = await running(store, peer, "c", parent_run_id=child.run_id)
    await store.finish(child, SUCCESS)
    assert (await decided(store, parent.run_id)).children == ()
    assert (await row_of(store, child.run_id)).status is RunStatus.success
    assert (await row_of(store, grandchild.run_id)).status is RunStatus.running


async def parent_must_exist_and_be_of_the_same_user(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    parent = await running(store, me, "a", user_id="u")
    wrong: list[dict[str, Field]] = [
        {"user_id": "v", "parent_run_id": parent.run_id},
        {"parent_run_id": "unknown"},
    ]
    for fields in wrong:
        with refused(RunNotFound):
            await admitted(store, me, "b", **fields)
    assert (await admitted(store, me, "b", user_id="u", parent_run_id=parent.run_id)).holds
    assert (await admitted(store, me, "c", parent_run_id=parent.run_id)).holds, "system scope"


async def parent_that_was_stopped_gets_no_more_children(case: StoreCase) -> None:
    """Otherwise a child that the parent's code admits while it unwinds would never be cancelled."""
    store, (me, _) = case.store, await case.workers()
    parent = await running(store, me, "a")
    await decided(store, parent.run_id)
    with refused(ParentEnded):
        await admitted(store, me, "b", parent_run_id=parent.run_id)
    done = await running(store, me, "c")
    await store.finish(done, SUCCESS)
    assert (await admitted(store, me, "b", parent_run_id=done.run_id)).holds


_CHILDREN = "a run that ends without success takes its children along, and no other run"

CHILDREN: tuple[Check[StoreCase], ...] = (
    *checks_of(
        decided_parent_cancels_its_children,
        parent_that_succeeds_leaves_its_children,
        end_of_a_child_stands,
        parent_must_exist_and_be_of_the_same_user,
        parent_that_was_stopped_gets_no_more_children,
        promise=_CHILDREN,
    ),
    *checks_for(
        ("finish", "update_status", "sweep"),
        parent_that_ends_without_success_cancels_its_children,
        promise=_CHILDREN,
    ),
)
