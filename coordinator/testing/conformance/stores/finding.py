"""What a search returns, and to which user: runs by filters, runs that may be cancelled, ids by prefix."""

from __future__ import annotations

from typing import cast

from coordinator.testing.conformance.stores.builders import (
    SUCCESS,
    Field,
    StoreCase,
    cancel,
    created,
    holding,
    running,
    waiting,
)
from coordinator.testing.conformance.suite import Check, checks_for, checks_of, refused
from stores.base import CoordinationStore
from stores.catalogue import NewThread, ThreadPatch
from stores.errors import RunNotFound, ThreadNotFound
from stores.finding import IdKind, ListPosition, RunQuery
from stores.states import CancelAction
from stores.times import instant


async def matching(
    store: CoordinationStore, user_id: str | None = None, limit: int = 100, **query: Field
) -> list[str]:
    rows = await store.find_runs(RunQuery(**query), user_id=user_id, behind=None, limit=limit)
    return [row.run_id for row in rows]


async def still_open(store: CoordinationStore, user_id: str | None = None, **query: Field) -> list[str]:
    return await store.open_run_ids(RunQuery(**query), user_id=user_id, limit=100)


async def runs_are_searched_by_every_filter(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    done = await running(store, me, "t1", user_id="u", metadata={"team": "red", "n": [1, 2]})
    await store.finish(done, SUCCESS)
    runs = await running(store, me, "t2", user_id="u", assistant_id="a", metadata={"team": "blue"})
    waits = await waiting(store, me, "t2", user_id="u", assistant_id="b", metadata={"team": "blue"})
    operation = await holding(store, me, "t3", kind="op")
    every = [waits, runs.run_id, done.run_id]
    assert await matching(store) == every
    assert operation.run_id not in await still_open(store)
    filters: list[tuple[dict[str, Field], list[str]]] = [
        ({"thread_id": "t2"}, every[:2]),
        ({"statuses": ("running", "success")}, every[1:]),
        ({"assistant_id": "a"}, [runs.run_id]),
        ({"metadata": {"team": "blue"}}, every[:2]),
        ({"metadata": {"n": [2]}}, [done.run_id]),
        ({"in_flight": True}, every[:2]),
        ({"in_flight": True, "assistant_id": "b", "thread_id": "t2"}, [waits]),
        ({"metadata": {"team": "green"}}, []),
    ]
    for query, expected in filters:
        assert await matching(store, **query) == expected, query
        assert await still_open(store, **query) == sorted(set(expected) - {done.run_id}), query


async def runs_that_are_searched_are_on_one_page_each(case: StoreCase) -> None:
    """Also where several are of one moment: by run id."""
    store, (me, _) = case.store, await case.workers()
    for number, step in enumerate((1, 2, 2, 2, 3)):
        await running(store, me, f"t{number}", run_id=f"r{number}", created_at=created(step))
    order = ["r4", "r1", "r2", "r3", "r0"]
    assert await matching(store) == order
    for size in (1, 2, 3):
        assert await _pages(store, size, most=len(order) + 1) == order, f"pages of {size}"
    assert await matching(store, limit=0) == []


async def _pages(store: CoordinationStore, size: int, *, most: int) -> list[str]:
    seen, behind = list[str](), None
    while len(seen) < most:
        rows = await store.find_runs(RunQuery(), user_id=None, behind=behind, limit=size)
        if not rows:
            break
        seen += [row.run_id for row in rows]
        behind = ListPosition(instant(rows[-1].created_at) or 0, rows[-1].run_id)
    return seen


async def decided_run_is_not_open(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    runs = await running(store, me)
    waits = [await waiting(store, me) for _ in range(2)]
    assert await still_open(store) == sorted([runs.run_id, *waits])
    assert await store.open_run_ids(RunQuery(), user_id=None, limit=1) == [min(runs.run_id, *waits)]
    assert await still_open(store, statuses=("pending",)) == sorted(waits)
    await cancel(store, waits[0])
    await cancel(store, runs.run_id, CancelAction.rollback)
    assert await still_open(store) == [waits[1]], "its task stops, or is undone, by itself"
    assert runs.run_id in await matching(store, in_flight=True)


async def ids_are_matched_by_their_prefix(case: StoreCase, kind: str) -> None:
    store, (me, _) = case.store, await case.workers()
    kind = cast("IdKind", kind)
    ids = ["01a", "01b", "01b2", "02%", "é1"]
    for each in ids:
        if kind == "run":
            await running(store, me, f"t{each}", run_id=each)
        else:
            await store.create_thread(NewThread(each))
    prefixes: dict[str, list[str]] = {
        "01": ids[:3],
        "01b": ids[1:3],
        "01b2": ids[2:3],
        "02%": [ids[3]],
        "0_": [],
        "%": [],
        "é": [ids[4]],
        "": ids,
    }
    for prefix, expected in prefixes.items():
        assert await store.ids_from(kind, prefix, limit=10) == expected, prefix
    assert await store.ids_from(kind, "0", limit=2) == ids[:2]


async def user_searches_its_own_runs(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = (await running(store, me, "of u", user_id="u")).run_id
    system = (await running(store, me, "of the system")).run_id
    for user, runs in (("u", [own]), ("v", []), (None, [system, own])):
        assert await matching(store, user) == runs, f"find_runs of {user}"
        assert await still_open(store, user) == sorted(runs), f"open_run_ids of {user}"


async def user_changes_its_own_threads_and_runs(case: StoreCase, owner: str) -> None:
    store, (me, _) = case.store, await case.workers()
    user = owner if owner == "u" else None
    await store.create_thread(NewThread("t", user_id=user))
    own = await running(store, me, user_id=user)
    before = await store.thread("t")
    for thread_id in ("t", "missing"):
        with refused(ThreadNotFound):
            await store.patch_thread(thread_id, ThreadPatch({"a": 1}), user_id="v")
    for run_id in (own.run_id, "missing"):
        with refused(RunNotFound):
            await store.update_extra(run_id, {"a": 1}, user_id="v", max_bytes=100)
    assert await store.thread("t") == before
    patched = await store.patch_thread("t", ThreadPatch({"a": 1}), user_id=user)
    assert patched.metadata == {"a": 1}
    assert patched == await store.thread("t")
    assert await store.update_extra(own.run_id, {"a": 1}, user_id=user, max_bytes=100) == {"a": 1}


FINDING: tuple[Check[StoreCase], ...] = (
    *checks_of(
        runs_are_searched_by_every_filter,
        decided_run_is_not_open,
        promise="a search returns the runs that match its filters, and no others",
    ),
    *checks_for(
        ("run", "thread"),
        ids_are_matched_by_their_prefix,
        promise="ids are returned by prefix, in order",
    ),
    *checks_of(
        runs_that_are_searched_are_on_one_page_each,
        promise="a list has one order, and its pages have each row once",
    ),
    *checks_of(user_searches_its_own_runs, promise="a user reaches no thread or run of another user"),
    *checks_for(
        ("u", "the system"),
        user_changes_its_own_threads_and_runs,
        promise="a user reaches no thread or run of another user",
    ),
)
