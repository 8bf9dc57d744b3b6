"""Writes of catalogue, crons, webhooks and burials that are made again after an attempt went unanswered.

What the first attempt has written must not look like somebody else's doing: "exists already", "not found",
"changed". Where the rows alone cannot tell, what was there before the first attempt is read first.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from stores.catalogue import NewThread, ThreadPatch
from stores.crons import CronRow, Firing
from stores.errors import RunNotFound, StoreUnavailable, ThreadExists, ThreadNotFound
from stores.postgres.options import Options
from stores.rows import RunRow, ThreadRow, WorkerRow
from stores.sql.codec import cron_values, dumps
from stores.sql.postgres import crons, history, threads, webhooks, workers
from stores.sql.postgres.calls import OUTCOME_UNKNOWN, Call, Rows, Unknown, scalar
from stores.states import WorkerState
from stores.transactions import SQLTransactions
from stores.webhooks import WebhookReport

T = TypeVar("T")

_PAUSE = 0.02  # s, at most, until a patch is made again that met another one


class WritesMadeAgain(SQLTransactions):
    """As `SQLTransactions`, on an engine whose answers may be lost."""

    _options: Options

    async def _made(self, call: Call[T], *, urgent: bool = False) -> T:
        raise NotImplementedError

    async def _briefly(self, call: Call[T]) -> T:
        raise NotImplementedError

    def _now(self) -> Any:
        raise NotImplementedError

    @cached_property
    def _patching(self) -> WeakValueDictionary[str, asyncio.Lock]:
        return WeakValueDictionary()

    async def patch_thread(self, thread_id: str, patch: ThreadPatch, *, user_id: str | None) -> ThreadRow:
        """Merged here, because JSON is text to the server; whoever was faster is merged into. Patches of this
        process take turns, those of others are met again for `busy_timeout`."""
        lock = self._patching.setdefault(thread_id, asyncio.Lock())
        async with lock:
            return await self._patched(thread_id, patch, user_id)

    async def _patched(self, thread_id: str, patch: ThreadPatch, user_id: str | None) -> ThreadRow:
        until = asyncio.get_running_loop().time() + self._options.busy_timeout
        while asyncio.get_running_loop().time() < until:
            was = await self._read(threads.metadata, thread_id, user_id)
            if was is None:
                raise ThreadNotFound(thread_id)
            said = await self._write(
                threads.patch_thread,
                thread_id,
                user_id,
                was,
                {**json.loads(was), **patch.metadata},
                sets_ttl=patch.sets_ttl,
                ttl_ms=patch.ttl_ms,
            )
            found = await self.thread(thread_id, user_id=user_id) if said == "patched" else None
            if said == "not found" or (said == "patched" and found is None):
                raise ThreadNotFound(thread_id)
            if found is not None:
                return found
            await asyncio.sleep(random.uniform(0, _PAUSE))
        raise StoreUnavailable(f"others patch thread {thread_id!r} all the time")

    async def fence_worker(self, peer: WorkerRow, *, by: int, proven: bool) -> bool:
        call = workers.fence_worker(self._now(), peer.epoch, peer.hb_seq, by, proven=proven)
        buried = await self._briefly(call.if_made_again(_true_or_unknown))
        return await self._is_buried(peer.epoch, by) if buried is OUTCOME_UNKNOWN else buried

    async def declare_dead(self, epoch: int, *, by: int, actor: str) -> bool:
        call = workers.declare_dead(self._now(), epoch, by, actor)
        declared = await self._made(call.if_made_again(_true_or_unknown))
        return await self._is_buried(epoch, by) if declared is OUTCOME_UNKNOWN else declared

    async def _is_buried(self, epoch: int, by: int) -> bool:
        everyone = await self.workers(alive_only=False)
        return any((row.epoch, row.fenced_by, row.state) == (epoch, by, _DEAD) for row in everyone)

    async def create_thread(self, new: NewThread) -> ThreadRow:
        call = threads.create_thread(self._now(), new)
        made = await self._made(call.if_made_again(_true_or_unknown))
        found = await self.thread(new.thread_id, user_id=new.user_id)
        if found is not None and (
            made is True or new.existing_ok or (made is OUTCOME_UNKNOWN and _is_as_made(found, new))
        ):
            return found
        raise ThreadExists(new.thread_id)

    async def delete_run(self, run_id: str, *, thread_id: str | None, user_id: str | None) -> RunRow:
        before = await self.run(run_id, thread_id=thread_id, user_id=user_id)
        call = history.delete_run(self._now(), run_id, thread_id, user_id)

        def again(rows: Rows) -> RunRow:
            try:
                return call.answer(rows)
            except RunNotFound:
                if before is None or before.settled_at is None:
                    raise
                return before

        return await self._made(call.if_made_again(again))

    async def replace_cron(self, cron: CronRow, *, user_id: str | None) -> CronRow | None:
        call = crons.replace(self._now(), cron, user_id)
        answer = await self._made(call.if_made_again(lambda rows: call.answer(rows) or OUTCOME_UNKNOWN))
        if answer is not OUTCOME_UNKNOWN:
            return answer
        found = await self.cron(cron.cron_id, user_id=None)
        wanted = replace(cron, version=cron.version + 1)
        mine = found is not None and (found.version, cron_values(found)) == (
            wanted.version,
            cron_values(wanted),
        )
        return found if mine else None

    async def delete_cron(self, cron_id: str, *, user_id: str | None) -> bool:
        before = await self.cron(cron_id, user_id=user_id)
        call = crons.delete(self._now(), cron_id, user_id)
        return await self._made(call.if_made_again(lambda rows: scalar(rows) or before is not None))

    async def skip_cron(self, firing: Firing, *, error: str | None) -> bool:
        call = crons.skip(self._now(), firing, error)
        made = await self._made(call.if_made_again(_true_or_unknown))
        if made is not OUTCOME_UNKNOWN:
            return made
        found = await self.cron(firing.cron_id, user_id=None)
        wanted = firing.at, firing.next_at, error
        return found is not None and (found.last_at, found.next_at, found.last_error) == wanted

    async def report_webhook(self, run_id: str, *, attempt: int, report: WebhookReport) -> bool:
        call = webhooks.report(self._now(), run_id, attempt, report)
        made = await self._made(call.if_made_again(_true_or_unknown))
        if made is not OUTCOME_UNKNOWN:
            return made
        found = next(iter(await self.webhooks(run_id=run_id)), None)
        if found is None:
            return False
        if report.postponed:
            return found.attempts == attempt - 1
        wanted = attempt, report.state, report.status_code, report.error
        return (found.attempts, found.state, found.status_code, found.error) == wanted


_DEAD = WorkerState.dead


def _true_or_unknown(rows: Rows) -> bool | Unknown:
    return True if scalar(rows) else OUTCOME_UNKNOWN


def _is_as_made(found: ThreadRow, new: NewThread) -> bool:
    """It is what was asked for, and nobody has used it since: whichever attempt has made it."""
    asked = new.user_id, dumps(new.metadata), new.ttl_ms, new.temporary
    unused = found.fence == 0 and found.created_at == found.updated_at
    return unused and asked == (found.user_id, dumps(found.metadata), found.ttl_ms, found.temporary)
