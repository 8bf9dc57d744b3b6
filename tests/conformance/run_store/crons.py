"""Crons: kept for their users, due by the store's clock, fired once, however many workers try."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from stores.base import CoordinationStore
from stores.catalogue import CatalogueStore, NewThread
from stores.crons import CronQuery, CronRow, CronStore, Firing
from stores.errors import ConflictError, CronFired, ThreadNotFound, TooManyCrons
from stores.rows import Limits
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import SUCCESS, StoreClock, holding, new_run, row_of, running

MINUTE = 60_000_000
KNOWN = ("agent",)


def new_cron(**fields: Any) -> CronRow:
    known: dict[str, Any] = {
        "cron_id": str(uuid4()),
        "user_id": None,
        "assistant_id": "agent",
        "thread_id": None,
        "schedule": "* * * * *",
        "timezone": None,
        "enabled": True,
        "end_at": None,
        "on_run_completed": "delete",
        "payload": {"assistant_id": "agent", "input": {"q": "ü\u0000"}},
        "metadata": {},
        "next_at": None,
    }
    return CronRow(**{**known, **fields})


class Crons(StoreCase):
    @pytest.fixture
    def crons(self, store: CoordinationStore) -> CronStore:
        assert isinstance(store, CronStore)
        return store

    async def test_one_that_is_made_again_with_its_id_is_the_same(self, crons: CronStore) -> None:
        """The first answer was lost. The cron may have been due or stopped since."""
        new = new_cron(user_id="u", next_at=MINUTE, metadata={"b": 1, "a": None})
        made = await crons.create_cron(new, thread_must_exist=False)
        assert await crons.create_cron(new, thread_must_exist=False) == made
        stopped = await crons.replace_cron(replace(made, enabled=False, next_at=None), user_id=None)
        assert await crons.create_cron(new, thread_must_exist=False) == stopped
        assert await crons.cron(new.cron_id, user_id=None) == stopped

    async def test_crons_of_a_user_are_bounded(self, crons: CronStore) -> None:
        async def create(cron: CronRow) -> CronRow:
            return await crons.create_cron(cron, thread_must_exist=False, limit=2)

        first, second = new_cron(user_id="u"), new_cron(user_id="u", enabled=False)
        made = await create(first)
        await create(second)
        with pytest.raises(TooManyCrons) as refused:
            await create(new_cron(user_id="u"))
        assert (refused.value.user_id, refused.value.limit) == ("u", 2)
        assert await create(first) == made, "it is one of the two"
        for _ in range(3):
            await create(new_cron(user_id=None))
        await create(new_cron(user_id="v"))
        assert await crons.delete_cron(second.cron_id, user_id="u")
        await create(new_cron(user_id="u"))
        await crons.create_cron(new_cron(user_id="u"), thread_must_exist=False)
        assert await crons.count_crons(CronQuery(), user_id="u") == 3

    async def test_crons_made_at_once_are_bounded(self, crons: CronStore) -> None:
        made = await asyncio.gather(
            *(crons.create_cron(new_cron(user_id="u"), thread_must_exist=False, limit=3) for _ in range(10)),
            return_exceptions=True,
        )
        assert sum(isinstance(one, TooManyCrons) for one in made) == 7
        assert await crons.count_crons(CronQuery(), user_id="u") == 3

    async def made(self, crons: CronStore, **fields: Any) -> CronRow:
        return await crons.create_cron(new_cron(**fields), thread_must_exist=True)

    async def test_page_ends_at_its_bytes(self, crons: CronStore) -> None:
        rows = [await self.made(crons, payload={"text": "x" * 1000}) for _ in range(3)]
        ids = sorted(row.cron_id for row in rows)
        query = CronQuery(sort_by="cron_id", sort_order="asc", max_bytes=2500)
        first = await crons.crons(query, user_id=None)
        assert ([row.cron_id for row in first], first.cut) == (ids[:2], True)
        rest = await crons.crons(replace(query, offset=2), user_id=None)
        assert ([row.cron_id for row in rest], rest.cut) == (ids[2:], False)

    async def test_what_was_made_is_found_as_it_was(self, crons: CronStore, clock: StoreClock) -> None:
        given = new_cron(
            user_id="u", timezone="Asia/Tokyo", end_at=7, next_at=5, metadata={"a": [1, {"b": None}]}
        )
        made = await crons.create_cron(given, thread_must_exist=True)
        assert made == replace(given, created_at=clock.micros, updated_at=clock.micros)
        assert await crons.cron(given.cron_id, user_id="u") == made
        assert await crons.cron(given.cron_id, user_id=None) == made
        assert await crons.cron(given.cron_id, user_id="v") is None
        assert await crons.cron("unknown", user_id=None) is None

    async def test_a_thread_must_be_the_users(self, store: CoordinationStore, crons: CronStore) -> None:
        assert isinstance(store, CatalogueStore)
        await store.create_thread(NewThread("t", user_id="u"))
        await store.create_thread(NewThread("nobodys"))
        assert (await self.made(crons, thread_id="t", user_id="u")).thread_id == "t"
        assert (await self.made(crons, thread_id="t")).thread_id == "t"
        for thread_id, user_id in (("t", "v"), ("nobodys", "u"), ("missing", "u"), ("missing", None)):
            with pytest.raises(ThreadNotFound):
                await self.made(crons, thread_id=thread_id, user_id=user_id)
        later = new_cron(thread_id="missing", user_id="u")
        assert await crons.create_cron(later, thread_must_exist=False)
        with pytest.raises(ThreadNotFound):
            await crons.create_cron(new_cron(thread_id="t", user_id="v"), thread_must_exist=False)

    async def test_a_change_is_made_on_what_was_seen(self, crons: CronStore, clock: StoreClock) -> None:
        seen = await self.made(crons, user_id="u", next_at=5)
        clock.advance(1)
        changed = await crons.replace_cron(replace(seen, enabled=False, next_at=None), user_id="u")
        assert changed == replace(seen, enabled=False, next_at=None, version=2, updated_at=clock.micros)
        assert changed is not None
        assert await crons.replace_cron(replace(seen, enabled=True), user_id="u") is None
        assert await crons.replace_cron(changed, user_id="v") is None
        assert await crons.cron(seen.cron_id, user_id=None) == changed

    async def test_it_is_deleted_by_its_user(self, crons: CronStore) -> None:
        cron = await self.made(crons, user_id="u")
        assert not await crons.delete_cron(cron.cron_id, user_id="v")
        assert await crons.delete_cron(cron.cron_id, user_id="u")
        assert not await crons.delete_cron(cron.cron_id, user_id="u")
        assert await crons.cron(cron.cron_id, user_id=None) is None

    async def test_listings(self, store: CoordinationStore, crons: CronStore, clock: StoreClock) -> None:
        assert isinstance(store, CatalogueStore)
        await store.create_thread(NewThread("t", user_id="u"))
        fields: list[dict[str, Any]] = [
            {"user_id": "u", "thread_id": "t", "metadata": {"a": 1, "b": {"c": [1, 2]}}, "next_at": 3},
            {"user_id": "u", "enabled": False, "assistant_id": "other", "end_at": 9},
            {"user_id": "v", "metadata": {"a": True}, "next_at": 1},
        ]
        one, two, three = [await self._later(crons, clock, **each) for each in fields]

        async def listed(user_id: str | None = None, **query: Any) -> list[CronRow]:
            cron_query = CronQuery(**query)
            rows = await crons.crons(cron_query, user_id=user_id)
            assert len(rows) == await crons.count_crons(cron_query, user_id=user_id) or "limit" in query
            return rows

        assert await listed() == [three, two, one]
        assert await listed("u") == [two, one]
        assert await listed(sort_order="asc") == [one, two, three]
        assert await listed(sort_by="next_run_date", sort_order="asc") == [three, one, two]
        assert await listed(sort_by="next_run_date") == [one, three, two]
        assert await listed(sort_by="end_time", limit=1) == [two]
        assert await listed(limit=1, offset=1) == [two]
        assert await listed(thread_id="t") == [one]
        assert await listed(enabled=False) == [two]
        assert await listed(enabled=True) == [three, one]
        assert await listed(assistant_ids=("other", "unknown")) == [two]
        assert await listed(assistant_ids=()) == []
        assert await listed(metadata={"a": 1}) == [one]
        assert await listed(metadata={"b": {"c": [2]}}) == [one]
        assert await listed("v", metadata={"a": 1}) == []
        for order in ("cron_id", "assistant_id", "thread_id", "created_at", "updated_at"):
            assert len(await listed(sort_by=order)) == 3

    async def _later(self, crons: CronStore, clock: StoreClock, **fields: Any) -> CronRow:
        clock.advance(1)
        return await self.made(crons, **fields)

    # -- when

    async def test_what_is_due_by_the_stores_clock(self, crons: CronStore, clock: StoreClock) -> None:
        now = clock.micros
        assert await crons.next_cron(KNOWN) is None
        second = await self.made(crons, next_at=now + 2 * MINUTE)
        first = await self.made(crons, next_at=now + MINUTE)
        await self.made(crons, next_at=now, enabled=False)
        await self.made(crons, next_at=None)
        await self.made(crons, next_at=now, assistant_id="unknown here")
        assert await crons.next_cron(KNOWN) == 60
        assert await crons.next_cron(()) is None
        assert await crons.due_crons(KNOWN, limit=10) == (now, ())
        clock.advance(60)
        assert await crons.next_cron(KNOWN) == 0
        assert await crons.due_crons(KNOWN, limit=10) == (clock.micros, (first,))
        clock.advance(600)
        assert await crons.due_crons(KNOWN, limit=10) == (clock.micros, (first, second))
        assert await crons.due_crons(KNOWN, limit=1) == (clock.micros, (first,))
        assert (await crons.due_crons((), limit=1)).crons == ()

    # -- firing

    async def test_the_run_and_the_next_moment_are_one_transaction(
        self, store: CoordinationStore, crons: CronStore, me: int, clock: StoreClock
    ) -> None:
        at = clock.micros
        cron = await self.made(crons, next_at=at)
        firing = Firing(cron.cron_id, at, at + MINUTE)
        run = new_run("t", firing=firing)
        clock.advance(1)
        admitted = await store.admit(run, epoch=me, limits=Limits())
        assert admitted.holds
        fired = await crons.cron(cron.cron_id, user_id=None)
        assert fired == replace(cron, next_at=at + MINUTE, last_at=at, last_run_id=run.run_id, version=2)
        for again in (
            new_run("t2", firing=firing),
            new_run("t", firing=firing, multitask_strategy="enqueue"),
        ):
            with pytest.raises(CronFired):
                await store.admit(again, epoch=me, limits=Limits())
            assert await store.row(again.run_id) is None
        assert await store.thread("t2") is None, "nothing is left of it"
        assert (await store.admit(run, epoch=me, limits=Limits())).existing is not None, "the same run again"
        assert await crons.cron(cron.cron_id, user_id=None) == fired

    async def test_a_refused_run_leaves_the_cron_due(
        self, store: CoordinationStore, crons: CronStore, me: int, clock: StoreClock
    ) -> None:
        cron = await self.made(crons, next_at=clock.micros)
        firing = Firing(cron.cron_id, clock.micros, clock.micros + MINUTE)
        await running(store, me, "t")
        with pytest.raises(ConflictError):
            await store.admit(new_run("t", firing=firing), epoch=me, limits=Limits())
        assert await crons.cron(cron.cron_id, user_id=None) == cron
        assert await crons.skip_cron(firing, error="busy")
        skipped = await crons.cron(cron.cron_id, user_id=None)
        assert skipped == replace(
            cron, next_at=firing.next_at, last_at=firing.at, last_error="busy", version=2
        )
        assert not await crons.skip_cron(firing, error="again")
        with pytest.raises(CronFired):
            await store.admit(new_run("t3", firing=firing), epoch=me, limits=Limits())

    @pytest.mark.parametrize("change", ["early", "disabled", "moved", "over", "deleted", "other moment"])
    async def test_what_is_not_due_is_not_fired(
        self, *, store: CoordinationStore, crons: CronStore, me: int, clock: StoreClock, change: str
    ) -> None:
        at = clock.micros + (MINUTE if change == "early" else 0)
        cron = await self.made(crons, next_at=at)
        if change == "disabled":
            await crons.replace_cron(replace(cron, enabled=False), user_id=None)
        elif change in {"moved", "over"}:
            moved = None if change == "over" else at + 1
            await crons.replace_cron(replace(cron, next_at=moved), user_id=None)
        elif change == "deleted":
            await crons.delete_cron(cron.cron_id, user_id=None)
        firing = Firing(cron.cron_id, at - (change == "other moment"), at + MINUTE)
        with pytest.raises(CronFired):
            await store.admit(new_run(firing=firing), epoch=me, limits=Limits())
        with pytest.raises(CronFired):
            await store.insert(new_run(firing=firing), epoch=me)
        assert not await crons.skip_cron(firing, error=None)
        assert await store.runs() == []

    async def test_the_last_moment_ends_it(
        self, store: CoordinationStore, crons: CronStore, me: int, clock: StoreClock
    ) -> None:
        cron = await self.made(crons, next_at=clock.micros)
        run = new_run(firing=Firing(cron.cron_id, clock.micros, None))
        await store.admit(run, epoch=me, limits=Limits())
        assert await crons.next_cron(KNOWN) is None
        over = await crons.cron(cron.cron_id, user_id=None)
        assert over is not None
        assert (over.next_at, over.last_run_id) == (None, run.run_id)

    async def test_many_try_and_one_fires(
        self, *, store: CoordinationStore, crons: CronStore, me: int, peer: int, clock: StoreClock
    ) -> None:
        cron = await self.made(crons, next_at=clock.micros)
        firing = Firing(cron.cron_id, clock.micros, clock.micros + MINUTE)
        tries = [
            store.admit(new_run(f"t{n}", firing=firing), epoch=(me, peer)[n % 2], limits=Limits())
            for n in range(20)
        ] + [crons.skip_cron(firing, error="unlucky") for _ in range(2)]
        answers = await asyncio.gather(*tries, return_exceptions=True)
        fired = [one for one in answers if not isinstance(one, (CronFired, bool))]
        skipped = [one for one in answers if one is True]
        assert len(fired) + len(skipped) == 1
        assert len(await store.runs()) == len(fired)

    async def test_it_goes_with_its_thread(
        self, store: CoordinationStore, crons: CronStore, me: int, clock: StoreClock
    ) -> None:
        assert isinstance(store, CatalogueStore)
        for name in ("gone", "expired", "stays"):
            await store.create_thread(NewThread(name, ttl_ms=1000 if name == "expired" else None))
        kept = await self.made(crons, thread_id="stays")
        own = await self.made(crons)
        for name in ("gone", "expired"):
            await self.made(crons, thread_id=name, next_at=clock.micros)
        operation = await holding(store, me, "gone", kind="op")
        await store.delete_thread(operation)
        clock.advance(100)
        assert [removed.thread_id for removed in await store.expire_threads(limit=10)] == ["expired"]
        left = await crons.crons(CronQuery(sort_order="asc"), user_id=None)
        assert {cron.cron_id for cron in left} == {kept.cron_id, own.cron_id}

    async def test_a_fired_run_is_a_run_like_any_other(
        self, store: CoordinationStore, crons: CronStore, me: int, clock: StoreClock
    ) -> None:
        cron = await self.made(crons, next_at=clock.micros, user_id="u")
        firing = Firing(cron.cron_id, clock.micros, None)
        own = await running(store, me, "t", firing=firing, user_id="u", idempotency_key="k", request_hash="h")
        await store.finish(own, SUCCESS)
        assert (await row_of(store, own.run_id)).user_id == "u"
        again = new_run("t", firing=firing, user_id="u", idempotency_key="k", request_hash="h")
        admitted = await store.admit(again, epoch=me, limits=Limits())
        assert admitted.run_id == own.run_id, "the key matches before the cron is checked"
