"""Lists: their order, their pages, and which user sees what."""

from __future__ import annotations

from itertools import chain

from coordinator.testing.conformance.stores.builders import (
    SUCCESS,
    Field,
    StoreCase,
    cancel,
    created,
    holding,
    row_of,
    running,
    thread_of,
    waiting,
)
from coordinator.testing.conformance.suite import Check, checks_of, refused
from stores.base import CoordinationStore
from stores.catalogue import NewThread, ThreadQuery
from stores.errors import RunNotFound, ThreadNotFound
from stores.pages import Page
from stores.rows import Outcome, RunRow
from stores.states import CancelAction, RunStatus


async def thread_ids(store: CoordinationStore, user_id: str | None = None, **query: Field) -> list[str]:
    """Thread ids in the order in which they are returned."""
    return [thread.thread_id for thread in await store.threads(ThreadQuery(**query), user_id=user_id)]


async def listed(store: CoordinationStore, thread_id: str = "t", **query: Field) -> Page[RunRow]:
    known: dict[str, Field] = {"statuses": (), "limit": 100, "offset": 0, "user_id": None}
    return await store.thread_runs(thread_id, **{**known, **query})


async def began(
    store: CoordinationStore, *, after: int = 0, limit: int = 100, user_id: str | None = None
) -> list[RunRow]:
    return await store.started_runs("t", after=after, limit=limit, user_id=user_id)


async def inflight(store: CoordinationStore, *statuses: str, **query: Field) -> list[str]:
    known: dict[str, Field] = {"thread_id": None, "user_id": None, "after": "", "limit": 100}
    rows = await store.inflight_runs(statuses=statuses, **{**known, **query})
    return [row.run_id for row in rows]


async def records_are_newest_first_with_ties_in_order_of_insertion(case: StoreCase) -> None:
    store = case.store
    for run_id, step in {"b": 5, "a": 5, "old": 1, "new": 9}.items():
        await store.put(run_id, thread_id="t", created_at=created(step))
    assert [row["run_id"] for row in await store.list_by_thread("t")] == ["new", "b", "a", "old"]
    assert [row["run_id"] for row in await store.list_by_thread("t", limit=1)] == ["new"]


async def records_in_flight_are_oldest_first(case: StoreCase) -> None:
    store = case.store
    rows = {"b": ("pending", 2), "a": ("running", 1), "c": ("pending", 3), "done": ("success", 0)}
    for run_id, (status, step) in rows.items():
        await store.put(run_id, thread_id=run_id, status=status, created_at=created(step))
    assert [row["run_id"] for row in await store.list_inflight()] == ["a", "b", "c"]
    assert [row["run_id"] for row in await store.list_inflight(before=created(2))] == ["a"]


async def runs_are_newest_first(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    for number in range(5):
        run_id = f"r{number}"
        await store.put(run_id, thread_id="ab"[number % 2], status="success", created_at=created(number))
    own = await running(store, me, created_at=created(10))
    assert [row.run_id for row in await store.runs(limit=3)] == [own.run_id, "r4", "r3"]
    assert [row.run_id for row in await store.runs(thread_id="a")] == ["r4", "r2", "r0"]
    assert [row.run_id for row in await store.runs(statuses=("running", "error"))] == [own.run_id]
    assert [row.run_id for row in await store.runs(in_flight=True)] == [own.run_id]


async def runs_of_a_thread_are_newest_first_in_pages(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    first = (await running(store, me)).run_id
    ids = [first, *[await waiting(store, me) for _ in range(6)]][::-1]
    pages = [await listed(store, limit=3, offset=offset) for offset in (0, 3, 6, 9)]
    assert [[row.run_id for row in page] for page in pages] == [ids[:3], ids[3:6], ids[6:], []]
    assert await listed(store, limit=0) == []


async def runs_of_a_thread_are_in_the_order_in_which_they_took_it(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    first = await running(store, me, user_id="u")
    second = await waiting(store, me, user_id="u")
    assert [row.run_id for row in await began(store)] == [first.run_id], "a run that waits has not begun"
    await cancel(store, first.run_id, CancelAction.rollback)
    await store.settle(first, Outcome(RunStatus.interrupted), "done")
    claimed = await store.claim("t", epoch=me)
    assert claimed is not None
    assert [row.run_id for row in await began(store)] == [first.run_id, second], "also one that was undone"
    assert [row.run_id for row in await began(store, after=first.fence)] == [second]
    assert [row.run_id for row in await began(store, limit=1)] == [first.run_id]
    assert await began(store, user_id="another") == await began(store, after=claimed.fence) == []


async def runs_in_flight_are_in_the_order_of_their_ids_in_pages(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    runs = sorted([(await running(store, me, f"t{n}")).run_id for n in range(5)])
    assert await inflight(store) == runs
    assert await inflight(store, limit=2) == runs[:2]
    assert await inflight(store, limit=2, after=runs[1]) == runs[2:4]
    await cancel(store, runs[0])
    assert await inflight(store, "running") == runs, "until its task has stopped"
    assert await inflight(store, thread_id="t3") != runs
    assert len(await inflight(store, thread_id="t3")) == 1


async def page_of_threads_has_none_of_another_page(case: StoreCase) -> None:
    """All are created at one moment: their ids order them."""
    store = case.store
    for number in range(25):
        await store.create_thread(NewThread(f"t{number:02}"))
    pages = [await thread_ids(store, limit=10, offset=offset) for offset in (0, 10, 20, 30)]
    assert [len(page) for page in pages] == [10, 10, 5, 0]
    assert sorted(chain.from_iterable(pages)) == [f"t{number:02}" for number in range(25)]
    assert await thread_ids(store) == pages[0]
    assert await store.count_threads(ThreadQuery(limit=3, offset=9), user_id=None) == 25
    assert await thread_ids(store, limit=0) == []


async def user_sees_its_own_runs(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me, user_id="u")
    await store.finish(own, SUCCESS)
    live = await running(store, me, user_id="u")
    for user, sees in (("u", True), (None, True), ("v", False)):
        assert (await store.row(own.run_id, user_id=user) is not None) == sees
        assert (await store.get(own.run_id, user_id=user) is not None) == sees
        assert (await store.thread("t", user_id=user) is not None) == sees
        assert (await store.run(own.run_id, thread_id="t", user_id=user) is not None) == sees
        assert (await inflight(store, user_id=user) == [live.run_id]) == sees
        assert len(await store.list_by_thread("t", user_id=user)) == (2 if sees else 0)
        if sees:
            assert len(await listed(store, user_id=user)) == 2
    with refused(ThreadNotFound):
        await listed(store, user_id="v")
    with refused(ThreadNotFound):
        await listed(store, "missing", user_id="u")
    for run_id, user, thread in ((own.run_id, "v", "t"), (own.run_id, "u", "x"), (live.run_id, "v", "t")):
        with refused(RunNotFound):
            await store.delete_run(run_id, thread_id=thread, user_id=user)
    assert await row_of(store, own.run_id)


async def user_finds_its_own_threads(case: StoreCase) -> None:
    store = case.store
    for user in ("u", "v", None):
        await store.create_thread(NewThread(f"of-{user}", user_id=user, metadata={"k": 1}))
    for user in ("u", "v"):
        assert await thread_ids(store, user, metadata={"k": 1}) == [f"of-{user}"]
        assert await thread_ids(store, user, ids=("of-u", "of-v", "of-None")) == [f"of-{user}"]
        assert await store.count_threads(ThreadQuery(), user_id=user) == 1


async def thread_with_an_open_question_is_interrupted_also_without_the_run(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    question: Field = [{"value": "?"}]
    for answered in (False, True):
        thread_id = f"answered-{answered}"
        await store.finish(await running(store, me, thread_id), Outcome(RunStatus.success, values={"v": 1}))
        asking = await running(store, me, thread_id)
        paused = Outcome(RunStatus.success, values={"v": 2}, paused=True, interrupts=question)
        await store.finish(asking, paused)
        if answered:
            answer = await running(store, me, thread_id)
            await store.finish(answer, Outcome(RunStatus.success, values={"v": 3}, interrupts=[]))
        await store.delete_run(asking.run_id, thread_id=thread_id, user_id=None)
        expected = "idle" if answered else "interrupted"
        assert (await thread_of(store, thread_id)).status == expected
        assert await thread_ids(store, status=expected) == [thread_id]


async def key_leads_its_user_to_the_thread_of_its_run(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    await holding(store, me, "a", user_id="alice", idempotency_key="k")
    await holding(store, me, "n", idempotency_key="of the system")
    assert await store.thread_of_key("k", user_id="alice") == "a"
    assert await store.thread_of_key("k", user_id="bob") is None
    assert await store.thread_of_key("k", user_id=None) is None
    assert await store.thread_of_key("of the system", user_id=None) == "n"
    assert await store.thread_of_key("free", user_id="alice") is None


LISTS: tuple[Check[StoreCase], ...] = (
    *checks_of(
        records_are_newest_first_with_ties_in_order_of_insertion,
        records_in_flight_are_oldest_first,
        runs_are_newest_first,
        runs_of_a_thread_are_newest_first_in_pages,
        runs_of_a_thread_are_in_the_order_in_which_they_took_it,
        runs_in_flight_are_in_the_order_of_their_ids_in_pages,
        page_of_threads_has_none_of_another_page,
        promise="a list has one order, and its pages have each row once",
    ),
    *checks_of(
        thread_with_an_open_question_is_interrupted_also_without_the_run,
        promise="the status of a thread agrees with the interrupts that its state has",
    ),
    *checks_of(
        user_sees_its_own_runs,
        user_finds_its_own_threads,
        key_leads_its_user_to_the_thread_of_its_run,
        promise="a user reaches no thread or run of another user",
    ),
)
