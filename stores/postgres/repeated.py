"""Writes of catalogue, crons, assistants, webhooks and deaths of workers, repeated after an attempt whose
answer was lost.

What the first attempt has written must not look like another client's write: "exists already", "not found",
"changed". Where the rows alone do not show which it is, the state before the first attempt is read first.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from stores.assistants import AssistantRow
from stores.catalogue import NewThread, ThreadPatch
from stores.crons import CronRow, Firing
from stores.errors import RunNotFound, StoreUnavailable, ThreadExists, ThreadNotFound
from stores.json_values import JsonObject
from stores.postgres.options import Options
from stores.rows import RunRow, ThreadRow, WorkerRow
from stores.sql.assistants import content, values
from stores.sql.codec import cron_values, dumps
from stores.sql.postgres import assistants, crons, history, projections, records, threads, webhooks, workers
from stores.sql.postgres.calls import OUTCOME_UNKNOWN, Call, Rows, Unknown, scalar
from stores.states import WorkerState
from stores.transactions import SQLTransactions
from stores.webhooks import WebhookReport

T = TypeVar("T")

_PAUSE = 0.02  # s, at most, before a patch that collided is repeated


class WritesMadeAgain(SQLTransactions):
    """As `SQLTransactions`, on an engine whose answers may be lost."""

    _options: Options

    async def _made(self, call: Call[T], *, urgent: bool = False) -> T:
        raise NotImplementedError

    async def _briefly(self, call: Call[T]) -> T:
        raise NotImplementedError

    def _now(self) -> Any:  # Any: None = the server's clock, but SQLite's statements need an int
        raise NotImplementedError

    @cached_property
    def _patching(self) -> WeakValueDictionary[str, asyncio.Lock]:
        return WeakValueDictionary()

    async def patch_thread(self, thread_id: str, patch: ThreadPatch, *, user_id: str | None) -> ThreadRow:
        """Merged by this process, because JSON is text to the server; a patch that was committed meanwhile is
        merged with. Patches of this process take turns; after a collision with another process it is repeated
        for `busy_timeout`."""
        lock = self._patching.setdefault(thread_id, asyncio.Lock())
        async with lock:
            return await self._patched(thread_id, patch, user_id)

    async def _patched(self, thread_id: str, patch: ThreadPatch, user_id: str | None) -> ThreadRow:
        until = asyncio.get_running_loop().time() + self._options.busy_timeout
        while asyncio.get_running_loop().time() < until:
            was = await self._read(threads.metadata, thread_id, user_id)
            if was is None:
                raise ThreadNotFound(thread_id)
            reply = await self._write(
                threads.patch_thread,
                thread_id,
                user_id,
                was,
                {**json.loads(was), **patch.metadata},
                sets_ttl=patch.sets_ttl,
                ttl_ms=patch.ttl_ms,
            )
            patched = await self.thread(thread_id, user_id=user_id) if reply == "patched" else None
            if reply == "not found" or (reply == "patched" and patched is None):
                raise ThreadNotFound(thread_id)
            if patched is not None:
                return patched
            await asyncio.sleep(random.uniform(0, _PAUSE))
        raise StoreUnavailable(f"other processes patch thread {thread_id!r} all the time")

    async def update_extra(
        self, run_id: str, extra: JsonObject, *, user_id: str | None, max_bytes: int
    ) -> JsonObject | None:
        """As `patch_thread`."""
        lock = self._patching.setdefault(f"run {run_id}", asyncio.Lock())
        async with lock:
            until = asyncio.get_running_loop().time() + self._options.busy_timeout
            while asyncio.get_running_loop().time() < until:
                was = await self._read(records.extra, run_id, user_id)
                if was is None:
                    raise RunNotFound(run_id)
                merged = {**json.loads(was), **extra}
                if len(text := dumps(merged)) > max_bytes:
                    return None
                reply = await self._write(records.update_extra, run_id, user_id, was, text)
                if reply == "updated":
                    return merged
                await asyncio.sleep(random.uniform(0, _PAUSE))
        raise StoreUnavailable(f"other processes update run {run_id!r} all the time")

    async def fence_worker(self, peer: WorkerRow, *, by: int, proven: bool) -> bool:
        call = workers.fence_worker(self._now(), peer.epoch, peer.hb_seq, by, proven=proven)
        fenced = await self._briefly(call.if_made_again(_true_or_unknown))
        return await self._is_fenced(peer.epoch, by) if fenced is OUTCOME_UNKNOWN else fenced

    async def declare_dead(self, epoch: int, *, by: int, actor: str) -> bool:
        call = workers.declare_dead(self._now(), epoch, by, actor)
        declared = await self._made(call.if_made_again(_true_or_unknown))
        return await self._is_fenced(epoch, by) if declared is OUTCOME_UNKNOWN else declared

    async def _is_fenced(self, epoch: int, by: int) -> bool:
        rows = await self.workers(alive_only=False)
        return any((row.epoch, row.fenced_by, row.state) == (epoch, by, _DEAD) for row in rows)

    async def create_thread(self, new: NewThread) -> ThreadRow:
        call = threads.create_thread(self._now(), new)
        made = await self._made(call.if_made_again(_true_or_unknown))
        existing = await self.thread(new.thread_id, user_id=new.user_id)
        if existing is not None and (
            made is True or new.existing_ok or (made is OUTCOME_UNKNOWN and _is_as_made(existing, new))
        ):
            return existing
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
        stored = await self.cron(cron.cron_id, user_id=None)
        wanted = replace(cron, version=cron.version + 1)
        mine = stored is not None and (stored.version, cron_values(stored)) == (
            wanted.version,
            cron_values(wanted),
        )
        return stored if mine else None

    async def delete_cron(self, cron_id: str, *, user_id: str | None) -> bool:
        before = await self.cron(cron_id, user_id=user_id)
        call = crons.delete(self._now(), cron_id, user_id)
        return await self._made(call.if_made_again(lambda rows: scalar(rows) or before is not None))

    async def skip_cron(self, firing: Firing, *, error: str | None) -> bool:
        call = crons.skip(self._now(), firing, error)
        made = await self._made(call.if_made_again(_true_or_unknown))
        if made is not OUTCOME_UNKNOWN:
            return made
        stored = await self.cron(firing.cron_id, user_id=None)
        wanted = firing.at, firing.next_at, error
        return stored is not None and (stored.last_at, stored.next_at, stored.last_error) == wanted

    async def create_assistant(self, assistant: AssistantRow) -> AssistantRow | None:
        call = assistants.create(self._now(), assistant)
        answer = await self._made(call.if_made_again(lambda rows: call.answer(rows) or OUTCOME_UNKNOWN))
        if answer is not OUTCOME_UNKNOWN:
            return answer
        stored = await self.assistant(assistant.assistant_id, user_id=None)
        mine = stored is not None and (stored.revision, values(stored)) == (1, values(assistant))
        return stored if mine else None

    async def change_assistant(self, assistant: AssistantRow, *, user_id: str | None) -> AssistantRow | None:
        call = assistants.change(self._now(), assistant, user_id)
        answer = await self._made(call.if_made_again(lambda rows: call.answer(rows) or OUTCOME_UNKNOWN))
        if answer is not OUTCOME_UNKNOWN:
            return answer
        stored = await self.assistant(assistant.assistant_id, user_id=user_id)
        wanted = assistant.revision + 1, content(assistant)
        return stored if stored is not None and (stored.revision, content(stored)) == wanted else None

    async def delete_assistant(self, assistant_id: str, *, user_id: str | None) -> bool:
        before = await self.assistant(assistant_id, user_id=user_id)
        call = assistants.delete(self._now(), assistant_id, user_id)
        return await self._made(call.if_made_again(lambda rows: scalar(rows) or before is not None))

    async def remove_projection(self, name: str) -> bool:
        before = any(row.name == name for row in await self.projections())
        call = projections.remove(self._now(), name)
        return await self._made(call.if_made_again(lambda rows: scalar(rows) or before))

    async def report_webhook(self, run_id: str, *, attempt: int, report: WebhookReport) -> bool:
        call = webhooks.report(self._now(), run_id, attempt, report)
        made = await self._made(call.if_made_again(_true_or_unknown))
        if made is not OUTCOME_UNKNOWN:
            return made
        stored = next(iter(await self.webhooks(run_id=run_id)), None)
        if stored is None:
            return False
        if report.postponed:
            return stored.attempts == attempt - 1
        wanted = attempt, report.state, report.status_code, report.error
        return (stored.attempts, stored.state, stored.status_code, stored.error) == wanted


_DEAD = WorkerState.dead


def _true_or_unknown(rows: Rows) -> bool | Unknown:
    return True if scalar(rows) else OUTCOME_UNKNOWN


def _is_as_made(thread: ThreadRow, new: NewThread) -> bool:
    """The thread is as requested and unused since: it is this call's, whichever attempt has made it."""
    requested = new.user_id, dumps(new.metadata), new.ttl_ms, new.temporary
    unused = thread.fence == 0 and thread.created_at == thread.updated_at
    return unused and requested == (thread.user_id, dumps(thread.metadata), thread.ttl_ms, thread.temporary)
