"""The states that a thread of function assistants has had, as clients of the Runs API know them: a tree.

Each run, or update, that wrote the thread's values has left a checkpoint, whose id is the run's. Before it
stands another one, the state that the run began with: going on from there without an input is the same run
again, with an input it is another one in its place. So a client regenerates an answer, or edits a question.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast
from uuid import UUID, uuid5

from coordinator.schemas import CheckpointRef, Interrupt, Json, StateView
from stores.checkpoints import CheckpointRow, CheckpointStore
from stores.rows import ThreadRow
from stores.times import iso

START = "__start__"
"""What graphs call the place where input comes in."""
_BEGINNING = ".input"
"""Ends the id of the state that a run began with."""
_NAMESPACE = UUID("9f0c2e1c-5d0b-5c8e-9a53-6a1f4d7c2b10")
_PAGE = 100
_LONGEST_WAY = 1000
"""Checkpoints that are looked through for the values with which a run began where another one began."""


class StatesStore(CheckpointStore, Protocol):
    async def thread(self, thread_id: str) -> ThreadRow | None: ...


@dataclass(frozen=True, slots=True)
class Base:
    """Where a run begins. `input`: what the run was asked that began there before; None = there was none."""

    values: Json
    input: Json = None


def begins_a_run(ref: CheckpointRef | None) -> bool:
    """It is the state that a run began with."""
    return ref is not None and ref.checkpoint_id is not None and ref.checkpoint_id.endswith(_BEGINNING)


class Checkpoints:
    def __init__(self, store: StatesStore) -> None:
        self._store = store

    async def head(self, thread_id: str, name: str) -> StateView | None:
        """What the thread holds, whose assistant calls itself `name`; None = there is no such thread."""
        newest = await self._store.checkpoints(thread_id, limit=1)
        thread = await self._store.thread(thread_id)
        return None if thread is None else _head(thread, newest, name)

    async def at(self, thread_id: str, ref: CheckpointRef | None, name: str) -> StateView | None:
        """None = it never held that, or nobody knows any more."""
        head = await self.head(thread_id, name)
        if head is None or ref is None or ref == CheckpointRef():
            return head
        if ref.checkpoint_ns or ref.checkpoint_id is None:
            return None
        if head.checkpoint is not None and head.checkpoint.checkpoint_id == ref.checkpoint_id:
            return head
        run_id, beginning = _parsed(ref.checkpoint_id)
        row = await self._row(thread_id, run_id)
        thread = await self._store.thread(thread_id)
        if row is None or thread is None:
            return None
        if not beginning:
            return _after(thread, row, name)
        return (
            _before(thread, row, await self._values_before(row, thread_id, {})) if _has_input(row) else None
        )

    async def history(
        self, thread_id: str, name: str, before: CheckpointRef | None, page: int
    ) -> AsyncIterator[StateView]:
        """Newest first; `before`: older than that one. `page`: rows that are read at once."""
        newest = await self._store.checkpoints(thread_id, limit=1)
        thread = await self._store.thread(thread_id)
        if thread is None:
            return
        head = _head(thread, newest, name)
        explained = bool(newest) and head.checkpoint == CheckpointRef(newest[0].run_id)
        start = await self._start(thread, None if explained else head, before)
        if start is None:
            return
        for view in start[0]:
            yield view
        at, size = start[1], min(max(page, 1), _PAGE)
        while rows := await self._store.checkpoints(thread_id, before=at, limit=size):
            known = {row.run_id: row for row in rows}
            for row in rows:
                yield head if head.checkpoint == CheckpointRef(row.run_id) else _after(thread, row, name)
                if _has_input(row):
                    yield _before(thread, row, await self._values_before(row, thread_id, known))
            if len(rows) < size:
                return
            at = rows[-1].run_id

    async def _start(
        self, thread: ThreadRow, unexplained: StateView | None, before: CheckpointRef | None
    ) -> tuple[list[StateView], str | None] | None:
        """The first states of a history, and the run before which its rows begin. `unexplained`: a head that
        is in no row. None = there is no such place."""
        held = unexplained is not None and unexplained.checkpoint is not None
        if before is None:
            return [unexplained] if unexplained is not None and held else [], None
        if before.checkpoint_id is None:
            return None
        if unexplained is not None and unexplained.checkpoint == CheckpointRef(before.checkpoint_id):
            return [], None
        run_id, beginning = _parsed(before.checkpoint_id)
        row = await self._row(thread.thread_id, run_id)
        if row is None:
            return None
        if beginning or not _has_input(row):
            return [], run_id
        return [_before(thread, row, await self._values_before(row, thread.thread_id, {}))], run_id

    async def base(self, thread_id: str, checkpoint_id: str) -> Base | None:
        """Where a run begins that goes on from there. None = the thread has no such checkpoint."""
        run_id, beginning = _parsed(checkpoint_id)
        row = await self._row(thread_id, run_id)
        if row is not None:
            if not beginning:
                return Base(row.values)
            return Base(await self._values_before(row, thread_id, {}), row.kwargs.get("input", row.kwargs))
        head = await self.head(thread_id, "")
        named = head is not None and head.checkpoint == CheckpointRef(checkpoint_id)
        return Base(head.values) if head is not None and named else None

    async def _row(self, thread_id: str, run_id: str) -> CheckpointRow | None:
        return next(iter(await self._store.checkpoints(thread_id, run_id=run_id)), None)

    async def _values_before(
        self, row: CheckpointRow, thread_id: str, known: Mapping[str, CheckpointRow]
    ) -> Json:
        """What the thread held, or was taken to hold, when the run began. `known`: rows that need no read."""
        base = _base_of(row)
        for _ in range(_LONGEST_WAY):
            if base is None:
                return None
            run_id, beginning = _parsed(base)
            found = known.get(run_id) or await self._row(thread_id, run_id)
            if found is None:
                return None
            if not beginning:
                return found.values
            base = _base_of(found)
        return None


def mark_of(thread: ThreadRow) -> CheckpointRef | None:
    """Names what the thread holds where no run's row explains it: the same values have the same id, whoever
    asks and when. None where nothing was ever written."""
    if thread.values is None and thread.interrupts is None:
        return None
    held = json.dumps([thread.thread_id, thread.values, thread.interrupts], sort_keys=True)
    return CheckpointRef(str(uuid5(_NAMESPACE, held)))


def _parsed(checkpoint_id: str) -> tuple[str, bool]:
    """(the run, is it the state that the run began with)"""
    return checkpoint_id.removesuffix(_BEGINNING), checkpoint_id.endswith(_BEGINNING)


def _base_of(row: CheckpointRow) -> str | None:
    """The checkpoint from which the run went on: that which it was asked to, else the one before it."""
    asked = row.kwargs.get("checkpoint")
    named = cast("dict[str, Any]", asked).get("checkpoint_id") if isinstance(asked, dict) else None
    return named if isinstance(named, str) else row.previous


def _has_input(row: CheckpointRow) -> bool:
    """It began with a state of its own; not so an operation, and a run that was only to go on."""
    asked = row.kwargs.get("input", row.kwargs)
    return row.kind == "run" and (asked is not None or _base_of(row) is None)


def _head(thread: ThreadRow, newest: list[CheckpointRow], name: str) -> StateView:
    """What the row does not say: what the thread asks now."""
    if newest and newest[0].current and (thread.values is not None or thread.interrupts is not None):
        view = _after(thread, newest[0], name)
        goes_on = newest[0].paused or thread.interrupts is not None
    else:
        view = StateView(
            values=thread.values,
            checkpoint=mark_of(thread),
            parent=CheckpointRef(newest[0].run_id) if newest else None,
            metadata=_metadata(thread, {}),
            created_at=iso(thread.updated_at),
        )
        goes_on = True
    interrupts = _interrupts(thread.interrupts)
    return replace(
        view,
        next=(name,) if thread.status == "interrupted" and goes_on else (),
        tasks=_tasks(view.checkpoint, name, thread.interrupts) if interrupts else (),
        interrupts=interrupts,
    )


def _after(thread: ThreadRow, row: CheckpointRow, name: str) -> StateView:
    ref = CheckpointRef(row.run_id)
    base = f"{row.run_id}{_BEGINNING}" if _has_input(row) else _base_of(row)
    interrupts = _interrupts(row.interrupts)
    return StateView(
        values=row.values,
        next=(name,) if row.paused else (),
        checkpoint=ref,
        parent=None if base is None else CheckpointRef(base),
        metadata=_metadata(thread, _of_run(row, "loop" if row.kind == "run" else "update")),
        created_at=iso(row.written_at),
        tasks=_tasks(ref, name, row.interrupts) if interrupts else (),
        interrupts=interrupts,
    )


def _before(thread: ThreadRow, row: CheckpointRow, values: Json) -> StateView:
    base = _base_of(row)
    return StateView(
        values=values,
        next=(START,),
        checkpoint=CheckpointRef(f"{row.run_id}{_BEGINNING}"),
        parent=None if base is None else CheckpointRef(base),
        metadata=_metadata(thread, _of_run(row, "input")),
        created_at=iso(row.written_at),
    )


def _of_run(row: CheckpointRow, source: str) -> dict[str, Json]:
    own = row.metadata if row.kind == "run" else {}
    more = {} if row.assistant_id is None else {"graph_id": row.assistant_id}
    return {**own, "source": source, "step": row.fence, "run_id": row.run_id, **more}


def _metadata(thread: ThreadRow, more: Mapping[str, Json]) -> dict[str, Json]:
    return {**thread.metadata, "thread_id": thread.thread_id, "graph_id": thread.assistant_id, **more}


def _interrupts(stored: Json) -> tuple[Interrupt, ...]:
    listed = cast("list[dict[str, Json]]", stored if isinstance(stored, list) else [])
    return tuple(Interrupt(one.get("value"), one.get("id")) for one in listed)


def _tasks(ref: CheckpointRef | None, name: str, interrupts: Json) -> tuple[Json, ...]:
    """User interfaces look for the questions of a paused run in what was going to run next."""
    return (
        {
            "id": None if ref is None else ref.checkpoint_id,
            "name": name,
            "error": None,
            "interrupts": interrupts,
            "checkpoint": None,
            "state": None,
            "result": None,
        },
    )
