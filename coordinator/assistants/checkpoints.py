"""Checkpoints of threads of function assistants: a tree of states, as defined by the Runs API.

Each run or update that wrote the thread's values is a checkpoint with the id of the run. Its parent is the
input checkpoint, the state with which the run began. A run resumed from an input checkpoint without an input
repeats that run; with an input it replaces the run. Clients use this to regenerate an answer or to edit a
question.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, cast
from uuid import UUID, uuid5

from coordinator.schemas import CheckpointRef, Interrupt, Json, StateView
from stores.checkpoints import CheckpointRow, CheckpointStore
from stores.json_values import JsonObject
from stores.rows import ThreadRow
from stores.times import iso

START = "__start__"
"""The name of the entry node in graphs."""
_INPUT_SUFFIX = ".input"
"""Suffix of the ids of input checkpoints."""
_NAMESPACE = UUID("9f0c2e1c-5d0b-5c8e-9a53-6a1f4d7c2b10")
_PAGE = 100
_MAX_INPUT_CHAIN = 1000
"""Maximum number of input checkpoints followed to find the values with which a run began."""


class StatesStore(CheckpointStore, Protocol):
    async def thread(self, thread_id: str) -> ThreadRow | None: ...


@dataclass(frozen=True, slots=True)
class Base:
    """The state with which a run begins. `input`: the input of the run that began there before, or None."""

    values: Json
    input: Json = None


def begins_a_run(ref: CheckpointRef | None) -> bool:
    """Return True if `ref` is an input checkpoint."""
    return ref is not None and ref.checkpoint_id is not None and ref.checkpoint_id.endswith(_INPUT_SUFFIX)


class Checkpoints:
    def __init__(self, store: StatesStore) -> None:
        self._store = store

    async def head(self, thread_id: str, name: str) -> StateView | None:
        """Return the current state, or None if the thread does not exist. `name`: the assistant's own
        name."""
        newest = await self._store.checkpoints(thread_id, limit=1)
        thread = await self._store.thread(thread_id)
        return None if thread is None else _head(thread, newest, name)

    async def at(self, thread_id: str, ref: CheckpointRef | None, name: str) -> StateView | None:
        """Return the state at a checkpoint, or None if it does not exist or was pruned."""
        head = await self.head(thread_id, name)
        if head is None or ref is None or ref == CheckpointRef():
            return head
        if ref.checkpoint_ns or ref.checkpoint_id is None:
            return None
        if head.checkpoint is not None and head.checkpoint.checkpoint_id == ref.checkpoint_id:
            return head
        run_id, is_input = _parsed(ref.checkpoint_id)
        row = await self._row(thread_id, run_id)
        thread = await self._store.thread(thread_id)
        if row is None or thread is None:
            return None
        if not is_input:
            return _after(thread, row, name)
        return (
            _before(thread, row, await self._values_before(row, thread_id, {})) if _has_input(row) else None
        )

    async def history(
        self, thread_id: str, name: str, before: CheckpointRef | None, page: int
    ) -> AsyncIterator[StateView]:
        """Yield states, newest first; with `before`, only older ones. `page`: rows per read."""
        newest = await self._store.checkpoints(thread_id, limit=1)
        thread = await self._store.thread(thread_id)
        if thread is None:
            return
        head = _head(thread, newest, name)
        has_row = bool(newest) and head.checkpoint == CheckpointRef(newest[0].run_id)
        start = await self._start(thread, None if has_row else head, before)
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
        self, thread: ThreadRow, rowless_head: StateView | None, before: CheckpointRef | None
    ) -> tuple[list[StateView], str | None] | None:
        """Return the first states of a history, and the run before which its rows begin; None if `before`
        does not exist. `rowless_head`: a current state without a row of its own."""
        held = rowless_head is not None and rowless_head.checkpoint is not None
        if before is None:
            return [rowless_head] if rowless_head is not None and held else [], None
        if before.checkpoint_id is None:
            return None
        if rowless_head is not None and rowless_head.checkpoint == CheckpointRef(before.checkpoint_id):
            return [], None
        run_id, is_input = _parsed(before.checkpoint_id)
        row = await self._row(thread.thread_id, run_id)
        if row is None:
            return None
        if is_input or not _has_input(row):
            return [], run_id
        return [_before(thread, row, await self._values_before(row, thread.thread_id, {}))], run_id

    async def base(self, thread_id: str, checkpoint_id: str) -> Base | None:
        """Return the state for a run resumed from a checkpoint; None if the thread has no such checkpoint."""
        run_id, is_input = _parsed(checkpoint_id)
        row = await self._row(thread_id, run_id)
        if row is not None:
            if not is_input:
                return Base(row.values)
            return Base(await self._values_before(row, thread_id, {}), row.kwargs.get("input", row.kwargs))
        head = await self.head(thread_id, "")
        if head is None or head.checkpoint != CheckpointRef(checkpoint_id):
            return None
        return Base(head.values)

    async def _row(self, thread_id: str, run_id: str) -> CheckpointRow | None:
        return next(iter(await self._store.checkpoints(thread_id, run_id=run_id)), None)

    async def _values_before(
        self, row: CheckpointRow, thread_id: str, known: Mapping[str, CheckpointRow]
    ) -> Json:
        """Return the values with which the run began. `known`: rows already read."""
        base = _base_of(row)
        for _ in range(_MAX_INPUT_CHAIN):
            if base is None:
                return None
            run_id, is_input = _parsed(base)
            ancestor = known.get(run_id) or await self._row(thread_id, run_id)
            if ancestor is None:
                return None
            if not is_input:
                return ancestor.values
            base = _base_of(ancestor)
        return None


def mark_of(thread: ThreadRow) -> CheckpointRef | None:
    """Return a deterministic id for a current state without a row: equal values have equal ids. None if
    nothing was written."""
    if thread.values is None and thread.interrupts is None:
        return None
    held = json.dumps([thread.thread_id, thread.values, thread.interrupts], sort_keys=True)
    return CheckpointRef(str(uuid5(_NAMESPACE, held)))


def _parsed(checkpoint_id: str) -> tuple[str, bool]:
    """Return the run id, and whether it is an input checkpoint."""
    return checkpoint_id.removesuffix(_INPUT_SUFFIX), checkpoint_id.endswith(_INPUT_SUFFIX)


def _base_of(row: CheckpointRow) -> str | None:
    """The checkpoint from which the run was resumed: the requested one, else the previous one. None: it began
    without a state, or that was removed."""
    if row.base_removed:
        return None
    ref = row.kwargs.get("checkpoint")
    checkpoint_id = cast("JsonObject", ref).get("checkpoint_id") if isinstance(ref, dict) else None
    return checkpoint_id if isinstance(checkpoint_id, str) else row.previous


def _has_input(row: CheckpointRow) -> bool:
    """Return True if the run has an input checkpoint. Operations and runs resumed without input have none."""
    input_ = row.kwargs.get("input", row.kwargs)
    return row.kind == "run" and not row.base_removed and (input_ is not None or _base_of(row) is None)


def _head(thread: ThreadRow, newest: list[CheckpointRow], name: str) -> StateView:
    """The newest row with the current interrupts of the thread."""
    if newest and newest[0].current and (thread.values is not None or thread.interrupts is not None):
        view = _after(thread, newest[0], name)
        resumable = newest[0].paused or thread.interrupts is not None
    else:
        view = StateView(
            values=thread.values,
            checkpoint=mark_of(thread),
            parent=CheckpointRef(newest[0].run_id) if newest else None,
            metadata=_metadata(thread, {}),
            created_at=iso(thread.updated_at),
        )
        resumable = True
    interrupts = _interrupts(thread.interrupts)
    return replace(
        view,
        next=_next(thread.status, name, resumable=resumable),
        tasks=_tasks(view.checkpoint, name, thread.interrupts) if interrupts else (),
        interrupts=interrupts,
    )


def _next(status: str, name: str, *, resumable: bool) -> tuple[str, ...]:
    """Clients that open a thread follow its runs only if `next` is not empty."""
    if status == "busy":
        return (START,)
    return (name,) if status == "interrupted" and resumable else ()


def _after(thread: ThreadRow, row: CheckpointRow, name: str) -> StateView:
    ref = CheckpointRef(row.run_id)
    base = f"{row.run_id}{_INPUT_SUFFIX}" if _has_input(row) else _base_of(row)
    interrupts = _interrupts(row.interrupts)
    return StateView(
        values=row.values,
        next=(name,) if row.paused else (),
        checkpoint=ref,
        parent=None if base is None else CheckpointRef(base),
        metadata=_metadata(thread, _run_metadata(row, "loop" if row.kind == "run" else "update")),
        created_at=iso(row.written_at),
        tasks=_tasks(ref, name, row.interrupts) if interrupts else (),
        interrupts=interrupts,
    )


def _before(thread: ThreadRow, row: CheckpointRow, values: Json) -> StateView:
    base = _base_of(row)
    return StateView(
        values=values,
        next=(START,),
        checkpoint=CheckpointRef(f"{row.run_id}{_INPUT_SUFFIX}"),
        parent=None if base is None else CheckpointRef(base),
        metadata=_metadata(thread, _run_metadata(row, "input")),
        created_at=iso(row.written_at),
    )


def _run_metadata(row: CheckpointRow, source: str) -> dict[str, Json]:
    own = row.metadata if row.kind == "run" else {}
    more = {} if row.assistant_id is None else {"graph_id": row.assistant_id}
    return {**own, "source": source, "step": row.fence, "run_id": row.run_id, **more}


def _metadata(thread: ThreadRow, more: Mapping[str, Json]) -> dict[str, Json]:
    return {**thread.metadata, "thread_id": thread.thread_id, "graph_id": thread.assistant_id, **more}


def _interrupts(stored: Json) -> tuple[Interrupt, ...]:
    listed = cast("list[dict[str, Json]]", stored if isinstance(stored, list) else [])
    return tuple(Interrupt.of({"value": None, **one}) for one in listed)


def _tasks(ref: CheckpointRef | None, name: str, interrupts: Json) -> tuple[Json, ...]:
    """User interfaces read the interrupts of a paused run from its next tasks."""
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
