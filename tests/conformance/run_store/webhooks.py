"""Webhooks: written with their run, due at its end, delivered under a lease."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stores.base import CoordinationStore
from stores.errors import ConflictError, EpochDead
from stores.pruning import PruneCursor, Pruned, PruningStore, Retention
from stores.rows import Limits, Outcome
from stores.states import CancelAction, RunStatus, WebhookState
from stores.webhooks import STOPPED, ClaimedWebhook, Shares, WebhookReport, WebhookRow, WebhookStore
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import (
    SUCCESS,
    StoreClock,
    admitted,
    cancel,
    fence_epoch,
    holding,
    new_run,
    running,
    waiting,
)

URL = "https://hooks.example.com/in?key=secret"
LEASE = 40.0
DELIVERED = WebhookReport(delivered=True, status_code=204)
GIVEN_UP = WebhookReport(delivered=False, error="410", status_code=410)


def again(seconds: float) -> WebhookReport:
    return WebhookReport(delivered=False, error="refused", retry_in=int(seconds * 1e6))


class Webhooks(StoreCase):
    @pytest.fixture
    def hooks(self, store: CoordinationStore) -> WebhookStore:
        assert isinstance(store, WebhookStore)
        return store

    @pytest.fixture
    def claim(self, hooks: WebhookStore, me: int) -> Callable[..., Awaitable[list[ClaimedWebhook]]]:
        async def claim(epoch: int = me, limit: int = 10) -> list[ClaimedWebhook]:
            return await hooks.claim_webhooks(epoch=epoch, lease=LEASE, limit=limit)

        return claim

    async def only(self, hooks: WebhookStore) -> WebhookRow:
        (row,) = await hooks.webhooks()
        return row

    async def test_a_run_without_one_has_none(
        self, store: CoordinationStore, hooks: WebhookStore, me: int, claim: Any
    ) -> None:
        await store.finish(await running(store, me), SUCCESS)
        assert await hooks.webhooks() == []
        assert await hooks.next_webhook() is None
        assert await claim() == []

    async def test_it_is_written_with_the_run_and_waits_for_its_end(
        self, store: CoordinationStore, hooks: WebhookStore, me: int, claim: Any, clock: StoreClock
    ) -> None:
        own = await running(store, me, "t", webhook=URL, user_id="u")
        row = await self.only(hooks)
        assert (row.run_id, row.thread_id, row.user_id, row.url) == (own.run_id, "t", "u", URL)
        assert (row.state, row.attempts, row.next_at, row.due_at) == (WebhookState.waiting, 0, None, None)
        clock.advance(86_400)
        assert await hooks.next_webhook() is None
        assert await claim() == []
        await store.finish(own, SUCCESS)
        row = await self.only(hooks)
        assert (row.state, row.due_at, row.next_at) == (WebhookState.due, clock.micros, clock.micros)
        assert await hooks.next_webhook() == 0

    async def test_a_refused_admission_leaves_none(
        self, store: CoordinationStore, hooks: WebhookStore, me: int
    ) -> None:
        await running(store, me)
        with pytest.raises(ConflictError):
            await store.admit(new_run(webhook=URL), epoch=me, limits=Limits())
        assert await hooks.webhooks() == []

    async def test_an_admission_that_is_repeated_writes_one(
        self, store: CoordinationStore, hooks: WebhookStore, me: int
    ) -> None:
        run = new_run(webhook=URL)
        for _ in range(2):
            await store.admit(run, epoch=me, limits=Limits())
        await self.only(hooks)

    async def test_what_is_sent_is_the_run_as_it_settled(
        self, store: CoordinationStore, me: int, claim: Any
    ) -> None:
        own = await running(
            store,
            me,
            "t",
            webhook=URL,
            assistant_id="agent",
            metadata={"a": [1]},
            kwargs={"input": {"q": "ü"}},
        )
        await store.save(own, {"n": 1})
        interrupts = [{"value": "?", "id": None}]
        await store.finish(
            own,
            Outcome(RunStatus.success, result={"n": 2}, values={"n": 2}, paused=True, interrupts=interrupts),
        )
        row = await store.row(own.run_id)
        later = await running(store, me, "t")
        await store.finish(later, Outcome(RunStatus.success, result={"n": 3}, values={"n": 3}))
        (claimed,) = await claim()
        assert row is not None
        assert (claimed.run_id, claimed.attempt, claimed.url) == (own.run_id, 1, URL)
        assert claimed.run == {
            "run_id": own.run_id,
            "thread_id": "t",
            "assistant_id": "agent",
            "status": "success",
            "multitask_strategy": "reject",
            "error": None,
            "cancel_action": None,
            "cancel_cause": None,
            "cancel_reason": None,
            "created_at": row.created_at,
            "started_at": row.started_at,
            "ended_at": row.ended_at,
            "updated_at": row.updated_at,
            "metadata": {"a": [1]},
            "kwargs": {"input": {"q": "ü"}},
            "values": {"n": 2},
            "interrupts": interrupts,
        }

    @pytest.mark.parametrize(
        "end", ["error", "cancelled", "waiting", "withdrawn", "orphaned", "recorded", "parent"]
    )
    async def test_every_end_makes_it_due(
        self, *, store: CoordinationStore, hooks: WebhookStore, me: int, peer: int, claim: Any, end: str
    ) -> None:
        status = RunStatus.interrupted
        if end == "waiting":
            await running(store, me)
            await cancel(store, await waiting(store, me, webhook=URL))
        elif end == "withdrawn":
            own = await holding(store, me, webhook=URL)
            await store.withdraw(own.run_id, epoch=me)
        elif end == "recorded":  # beside the slot, without an owner
            await running(store, peer)
            imported = await store.insert(new_run(webhook=URL), epoch=peer)
            await fence_epoch(store, peer, by=me)
            await store.sweep(by=me, error="gone")
            status = RunStatus.error
            assert (await store.row(imported.run_id)) is not None
        elif end == "parent":
            parent = await running(store, me, "p")
            await running(store, me, "c")
            await waiting(store, me, "c", webhook=URL, parent_run_id=parent.run_id)
            await store.finish(parent, Outcome(RunStatus.error, "boom"))
        else:
            own = await running(store, me if end != "orphaned" else peer, webhook=URL)
            await store.save(own, {"kept": 1})
            if end == "error":
                status = RunStatus.error
                await store.finish(own, Outcome(RunStatus.error, "boom"))
            elif end == "cancelled":
                await cancel(store, own.run_id)
                assert (await self.only(hooks)).state is WebhookState.waiting, "its task has not stopped"
                await store.finish(own, SUCCESS)
            else:
                status = RunStatus.error
                await fence_epoch(store, peer, by=me)
                await store.sweep(by=me, error="gone")
        assert (await self.only(hooks)).state is WebhookState.due
        (claimed,) = await claim()
        assert claimed.run["status"] == status
        if end in {"error", "cancelled", "orphaned"}:
            assert claimed.run["values"] == {"kept": 1}
        if end == "orphaned":
            assert claimed.run["error"] == "gone"

    async def test_webhook_of_a_rollback_is_due_when_the_thread_is_restored(
        self, store: CoordinationStore, hooks: WebhookStore, me: int, claim: Any
    ) -> None:
        await store.finish(await running(store, me), Outcome(RunStatus.success, values={"n": 0}))
        own = await running(store, me, webhook=URL)
        await store.save(own, {"n": 1})
        await cancel(store, own.run_id, CancelAction.rollback)
        assert (await store.finish(own, SUCCESS)).undo
        assert (await self.only(hooks)).state is WebhookState.waiting
        values = await store.restore(own)
        await store.settle(own, Outcome(RunStatus.interrupted, values=values), "done")
        (claimed,) = await claim()
        assert (claimed.run["cancel_action"], claimed.run["values"]) == ("rollback", {"n": 0})

    async def test_a_run_without_json_that_sql_could_read_ends_all_the_same(
        self, store: CoordinationStore, me: int, claim: Any
    ) -> None:
        deep: Any = []
        for _ in range(900):
            deep = [deep]
        own = await running(store, me, webhook=URL, kwargs={"deep": deep, "odd": "\ud800\x00"})
        await store.finish(own, Outcome(RunStatus.error, "bad \ud800 \x00 text", result=deep))
        (claimed,) = await claim()
        assert claimed.run["kwargs"] == {"deep": deep, "odd": "\ud800\x00"}

    async def test_it_outlives_its_run_and_its_thread(
        self, store: CoordinationStore, hooks: WebhookStore, me: int, claim: Any
    ) -> None:
        own = await running(store, me, "t", webhook=URL)
        await store.finish(own, Outcome(RunStatus.success, result=1))
        operation = await holding(store, me, "t", kind="op")
        await store.delete_thread(operation)
        assert await store.row(own.run_id) is None
        (claimed,) = await claim()
        assert (claimed.run_id, claimed.run["values"]) == (own.run_id, 1)

    @pytest.mark.parametrize("webhook", [None, URL])
    @pytest.mark.parametrize("thread_id", ["t", "other"])
    async def test_the_id_of_a_run_stays_used_until_its_webhook_is_pruned(
        self,
        *,
        store: CoordinationStore,
        me: int,
        claim: Any,
        hooks: WebhookStore,
        thread_id: str,
        webhook: Any,
    ) -> None:
        assert isinstance(store, PruningStore)
        own = await running(store, me, "t", webhook=URL)
        await store.finish(own, SUCCESS)
        await store.delete_thread(await holding(store, me, "t", kind="op"))
        run = new_run(thread_id, run_id=own.run_id, webhook=webhook)
        for _ in ("due", "delivered"):
            with pytest.raises(ConflictError):
                await store.admit(run, epoch=me, limits=Limits())
            with pytest.raises(ConflictError):
                await store.insert(run, epoch=me)
            for claimed in await claim():
                await hooks.report_webhook(own.run_id, attempt=claimed.attempt, report=DELIVERED)
        await store.prune(Retention(webhooks=0), limit=10, cursor=PruneCursor("webhooks"))
        assert (await store.admit(run, epoch=me, limits=Limits())).holds

    async def test_run_deleted_in_flight_sends_no_webhook(
        self, store: CoordinationStore, hooks: WebhookStore, me: int
    ) -> None:
        await running(store, me)
        run_id = await waiting(store, me, webhook=URL)
        await store.delete(run_id)
        assert await hooks.webhooks() == []

    async def test_deleting_a_run_keeps_the_webhooks_of_other_runs(
        self, store: CoordinationStore, hooks: WebhookStore, me: int
    ) -> None:
        kept = (await running(store, me, "u", webhook=URL)).run_id
        deleted = (await running(store, me, webhook=URL)).run_id
        await store.delete(deleted)
        assert [(row.run_id, row.state) for row in await hooks.webhooks()] == [(kept, WebhookState.waiting)]

    # -- leases

    async def test_claimed_webhook_is_exclusive_for_the_lease(
        self,
        *,
        store: CoordinationStore,
        hooks: WebhookStore,
        me: int,
        peer: int,
        claim: Any,
        clock: StoreClock,
    ) -> None:
        await store.finish(await running(store, me, webhook=URL), SUCCESS)
        (first,) = await claim(me)
        assert await claim(peer) == []
        assert await hooks.next_webhook() == LEASE
        row = await self.only(hooks)
        assert (row.state, row.attempts, row.claimed_by) == (WebhookState.due, 1, me)
        clock.advance(LEASE - 0.001)
        assert await claim(peer) == []
        clock.advance(0.001)
        (second,) = await claim(peer)
        assert (first.attempt, second.attempt) == (1, 2)
        assert first.run == second.run, "byte for byte the same on each worker"

    async def test_only_the_last_claim_reports(
        self,
        *,
        store: CoordinationStore,
        hooks: WebhookStore,
        me: int,
        peer: int,
        claim: Any,
        clock: StoreClock,
    ) -> None:
        await store.finish(await running(store, me, webhook=URL), SUCCESS)
        (first,) = await claim(me)
        clock.advance(LEASE)
        (second,) = await claim(peer)
        for late in (DELIVERED, GIVEN_UP, again(1)):
            assert not await hooks.report_webhook(first.run_id, attempt=first.attempt, report=late)
        assert await hooks.report_webhook(second.run_id, attempt=second.attempt, report=DELIVERED)
        assert not await hooks.report_webhook(second.run_id, attempt=second.attempt, report=GIVEN_UP)
        row = await self.only(hooks)
        assert (row.state, row.status_code, row.ended_at) == (WebhookState.delivered, 204, clock.micros)
        clock.advance(10 * LEASE)
        assert await claim() == []
        assert not await hooks.report_webhook("unknown", attempt=1, report=DELIVERED)

    async def test_late_report_counts_until_the_next_claim(
        self, store: CoordinationStore, hooks: WebhookStore, me: int, claim: Any, clock: StoreClock
    ) -> None:
        await store.finish(await running(store, me, webhook=URL), SUCCESS)
        (claimed,) = await claim()
        clock.advance(2 * LEASE)
        assert await hooks.report_webhook(claimed.run_id, attempt=1, report=DELIVERED)
        assert await claim() == []

    async def test_a_postponed_one_has_its_attempt_back(
        self, store: CoordinationStore, hooks: WebhookStore, me: int, claim: Any, clock: StoreClock
    ) -> None:
        await store.finish(await running(store, me, webhook=URL), SUCCESS)
        (claimed,) = await claim()
        assert await hooks.report_webhook(claimed.run_id, attempt=1, report=again(0))
        (claimed,) = await claim()
        assert claimed.attempt == 2
        postponed = WebhookReport(delivered=False, retry_in=5_000_000, postponed=True)
        assert await hooks.report_webhook(claimed.run_id, attempt=2, report=postponed)
        assert not await hooks.report_webhook(claimed.run_id, attempt=2, report=postponed), "once"
        row = await self.only(hooks)
        assert (row.state, row.attempts, row.error) == (WebhookState.due, 1, "refused"), "nothing was tried"
        assert await hooks.next_webhook() == 5
        clock.advance(5)
        (claimed,) = await claim()
        assert claimed.attempt == 2

    async def test_a_failed_one_comes_again_when_it_is_time(
        self, store: CoordinationStore, hooks: WebhookStore, me: int, claim: Any, clock: StoreClock
    ) -> None:
        await store.finish(await running(store, me, webhook=URL), SUCCESS)
        (claimed,) = await claim()
        assert await hooks.report_webhook(claimed.run_id, attempt=1, report=again(5))
        assert await hooks.next_webhook() == 5
        assert (await self.only(hooks)).error == "refused"
        clock.advance(4.999)
        assert await claim() == []
        clock.advance(0.001)
        (claimed,) = await claim()
        assert claimed.attempt == 2

    async def test_a_dead_worker_claims_nothing(
        self, store: CoordinationStore, me: int, peer: int, claim: Any
    ) -> None:
        await store.finish(await running(store, me, webhook=URL), SUCCESS)
        await fence_epoch(store, peer, by=me)
        with pytest.raises(EpochDead):
            await claim(peer)
        assert len(await claim(me)) == 1

    async def test_a_draining_worker_goes_on(self, store: CoordinationStore, me: int, claim: Any) -> None:
        await store.finish(await running(store, me, webhook=URL), SUCCESS)
        await store.drain(me)
        assert len(await claim(me)) == 1

    async def test_claims_return_the_oldest_first_up_to_the_limit(
        self, store: CoordinationStore, me: int, claim: Any, clock: StoreClock
    ) -> None:
        expected: list[str] = []
        for number in range(5):
            own = await running(store, me, f"t{number}", webhook=URL)
            await store.finish(own, SUCCESS)
            expected.append(own.run_id)
            clock.advance(1)
        assert {claimed.run_id for claimed in await claim(limit=3)} == set(expected[:3])
        assert {claimed.run_id for claimed in await claim(limit=3)} == set(expected[3:])

    # -- users take turns

    @pytest.mark.parametrize(
        ("limit", "per_user", "held", "expected"),
        [
            (10, 2, {}, {0, 1, 5, 6, 7, 8}),
            (4, 2, {}, {0, 5, 6, 8}),
            (3, 2, {}, {0, 5, 6}),
            (1, 2, {}, {0}),
            (1, 2, {"a": 1}, {5}),
            (4, 2, {"a": 1}, {0, 5, 6, 8}),
            (10, 2, {"a": 2, "c": 9}, {5, 6, 7}),
            (10, 9, {"a": 6}, {0, 1, 2, 5, 6, 7, 8}),
            (5, 9, {"a": 1}, {0, 5, 6, 7, 8}),
            (6, 9, {"a": 1}, {0, 1, 5, 6, 7, 8}),
        ],
    )
    async def test_users_take_turns_and_get_no_more_than_their_share(
        self,
        *,
        store: CoordinationStore,
        hooks: WebhookStore,
        me: int,
        clock: StoreClock,
        limit: int,
        per_user: int,
        held: dict[str, int],
        expected: set[int],
    ) -> None:
        async def claimed(limit: int, shares: Shares) -> list[ClaimedWebhook]:
            return await hooks.claim_webhooks(epoch=me, lease=LEASE, limit=limit, shares=shares)

        async def due(thread: str, user: str | None) -> str:
            own = await running(store, me, thread, webhook=URL, user_id=user)
            await store.finish(own, SUCCESS)
            clock.advance(1)
            return own.run_id

        await due("later", "later")
        (later,) = await claimed(1, Shares(1, {}))
        assert await hooks.report_webhook(later.run_id, attempt=1, report=again(1e6))
        users = (*["a"] * 5, "b", None, None, "c")
        runs = [await due(str(number), user) for number, user in enumerate(users)]
        got = await claimed(limit, Shares(per_user, held))
        assert {runs.index(one.run_id) for one in got} == expected
        assert [one.user_id for one in got] == [users[runs.index(one.run_id)] for one in got]
        left = await claimed(100, Shares(100, {}))
        assert {one.run_id for one in (*got, *left)} == set(runs), "they are claimed once"

    async def test_users_that_take_turns_get_what_is_due_at_this_moment(
        self, store: CoordinationStore, hooks: WebhookStore, me: int
    ) -> None:
        for user in ("a", None):
            await store.finish(await running(store, me, f"of {user}", webhook=URL, user_id=user), SUCCESS)
        claimed = await hooks.claim_webhooks(epoch=me, lease=LEASE, limit=10, shares=Shares(2, {}))
        assert {webhook.user_id for webhook in claimed} == {"a", None}

    # -- what becomes of the dead

    async def test_the_dead_are_revived_with_all_attempts_before_them(
        self, store: CoordinationStore, hooks: WebhookStore, me: int, claim: Any
    ) -> None:
        ids: dict[str, str] = {}
        for name in ("a", "b", "mine"):
            own = await running(store, me, name, webhook=URL, user_id=name)
            await store.finish(own, Outcome(RunStatus.success, result=name))
            ids[name] = own.run_id
        for claimed in await claim():
            assert await hooks.report_webhook(claimed.run_id, attempt=1, report=GIVEN_UP)
        assert await claim() == []
        assert await hooks.next_webhook() is None
        dead = await hooks.webhooks(states=("dead",))
        assert {row.run_id for row in dead} == set(ids.values())
        assert await hooks.revive_webhooks([ids["a"]], user_id="mine") == []
        assert await hooks.revive_webhooks([ids["a"], "unknown"]) == [ids["a"]]
        (claimed,) = await claim()
        assert (claimed.run_id, claimed.attempt, claimed.run["values"]) == (ids["a"], 1, "a")
        assert await hooks.revive_webhooks(user_id="mine") == [ids["mine"]]
        assert await hooks.revive_webhooks() == [ids["b"]]
        assert await hooks.revive_webhooks() == []

    async def test_pending_webhooks_of_a_user_are_stopped(
        self, store: CoordinationStore, hooks: WebhookStore, me: int, claim: Any, clock: StoreClock
    ) -> None:
        ids: dict[str, str] = {}
        for name, user in (("due", "u"), ("claimed", "u"), ("foreign", "v"), ("dead", "u")):
            own = await running(store, me, name, webhook=URL, user_id=user)
            await store.finish(own, SUCCESS)
            ids[name] = own.run_id
        claimed = next(one for one in await claim() if one.run_id == ids["claimed"])
        waits = await running(store, me, "waits", webhook=URL, user_id="u")
        assert await hooks.stop_webhooks([ids["dead"]], user_id="v") == []
        assert await hooks.stop_webhooks([ids["dead"]]) == [ids["dead"]]
        clock.advance(1)
        stopped = await hooks.stop_webhooks(user_id="u")
        assert set(stopped) == {ids["due"], ids["claimed"], waits.run_id}
        assert await hooks.stop_webhooks(user_id="u") == []
        assert not await hooks.report_webhook(claimed.run_id, attempt=claimed.attempt, report=again(1))
        rows = await hooks.webhooks(user_id="u")
        assert {(row.state, row.error) for row in rows} == {(WebhookState.dead, STOPPED)}
        assert {row.ended_at for row in rows} == {clock.micros - 1_000_000, clock.micros}
        clock.advance(2 * LEASE)
        assert [one.run_id for one in await claim()] == [ids["foreign"]]

    async def test_webhook_stopped_before_its_run_ended_is_never_sent(
        self, store: CoordinationStore, hooks: WebhookStore, me: int, claim: Any
    ) -> None:
        own = await running(store, me, "t", webhook=URL, user_id="u")
        assert await hooks.stop_webhooks(user_id="u") == [own.run_id]
        assert await hooks.revive_webhooks() == [], "there is nothing to send"
        await store.finish(own, SUCCESS)
        assert await claim() == []
        due = await running(store, me, "t", webhook=URL, user_id="u")
        await store.finish(due, SUCCESS)
        assert await hooks.stop_webhooks() == [due.run_id]
        assert await hooks.revive_webhooks() == [due.run_id]
        assert [one.run_id for one in await claim()] == [due.run_id]

    async def test_webhooks_are_counted_by_state_and_user(
        self, store: CoordinationStore, hooks: WebhookStore, me: int
    ) -> None:
        for thread, user in (("a", "u"), ("b", "u"), ("c", "v")):
            own = await running(store, me, thread, webhook=URL, user_id=user)
            if thread == "a":
                await store.finish(own, SUCCESS)
        assert await hooks.count_webhooks() == 3
        assert await hooks.count_webhooks(user_id="u") == 2
        assert await hooks.count_webhooks(states=("waiting",), user_id="u") == 1
        assert await hooks.count_webhooks(states=("waiting", "due")) == 3
        assert await hooks.count_webhooks(states=("dead",)) == 0

    async def test_lists_are_scoped_and_bounded(
        self, store: CoordinationStore, hooks: WebhookStore, me: int, clock: StoreClock
    ) -> None:
        for user in ("u", "u", "v"):
            await admitted(store, me, f"t-{user}", webhook=URL, user_id=user, multitask_strategy="enqueue")
            clock.advance(1)
        everything = await hooks.webhooks()
        assert [row.user_id for row in everything] == ["v", "u", "u"]
        assert await hooks.webhooks(user_id="v") == everything[:1]
        assert await hooks.webhooks(limit=1) == everything[:1]
        assert await hooks.webhooks(states=("due", "dead")) == []
        assert await hooks.webhooks(run_id=everything[2].run_id) == everything[2:]
        assert await hooks.webhooks(run_id=everything[2].run_id, user_id="v") == []

    async def test_what_has_ended_is_pruned_and_nothing_else(
        self, store: CoordinationStore, hooks: WebhookStore, me: int, claim: Any, clock: StoreClock
    ) -> None:
        assert isinstance(store, PruningStore)
        for number in range(5):
            await store.finish(await running(store, me, f"t{number}", webhook=URL), SUCCESS)
        await running(store, me, "waits", webhook=URL)
        for number, claimed in enumerate(await claim(limit=4)):
            report = (DELIVERED, GIVEN_UP, DELIVERED, again(1e6))[number]
            await hooks.report_webhook(claimed.run_id, attempt=1, report=report)
        clock.advance(100)

        async def prune(keep: float | None, *, dry_run: bool = False) -> int:
            removed, cursor = Pruned(), PruneCursor("runs")
            while True:
                step = await store.prune(Retention(webhooks=keep), cursor=cursor, limit=2, dry_run=dry_run)
                removed = removed.plus(step.pruned)
                if step.cursor is None:
                    return removed.webhooks
                cursor = step.cursor

        assert await prune(101) == await prune(None) == 0
        assert await prune(100, dry_run=True) == 3
        assert await prune(100) == 3
        assert sorted(row.state for row in await hooks.webhooks()) == ["due", "due", "waiting"]
