"""`manager.threads`: threads, their state, and short operations that hold them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, get_args

from coordinator import arguments as check
from coordinator.assistants.registry import Assistants
from coordinator.errors import ThreadNotFound
from coordinator.ids import new_run_id
from coordinator.runs.operations import Operations
from coordinator.schemas import CheckpointRef, Json, StateStep, StateView, User
from coordinator.workers.expiry import Expiry
from stores.base import ReadStore
from stores.catalogue import CatalogueStore, Direction, NewThread, ThreadOrder, ThreadPatch, ThreadQuery
from stores.event_loop import HomeLoop
from stores.json_values import JsonObject
from stores.pages import Page
from stores.rows import Ownership, ThreadRow

THREAD_STATUSES = ("idle", "busy", "interrupted", "error")


class ThreadStore(CatalogueStore, ReadStore, Protocol):
    """Store operations of `Threads`."""


class Threads:
    """Reads come from the store, so every worker returns the same.

    `user_id` restricts a call to that user's threads: another user's thread is unknown.
    """

    def __init__(
        self,
        store: ThreadStore,
        *,
        home: HomeLoop,
        operations: Operations,
        assistants: Assistants,
        expiry: Expiry,
    ) -> None:
        self._store, self._home, self._operations = store, home, operations
        self._assistants, self._expiry = assistants, expiry

    # -- the catalogue

    async def create(
        self,
        thread_id: str | None = None,
        *,
        metadata: JsonObject | None = None,
        if_exists: Literal["raise", "do_nothing"] = "raise",
        ttl: float | None = None,
        temporary: bool = False,
        user_id: str | None = None,
    ) -> ThreadRow:
        """Create a thread without runs; its id defaults to a new UUID. `ttl` (s): the thread is removed with
        its runs that long after its last use. `temporary`: removed after `keep_temporary` s, and not listed.

        Raises ThreadExists if the id is taken, by any user. With `do_nothing`, the existing thread is
        returned unchanged if it is this user's.
        """
        self._home.check()
        new = NewThread(
            thread_id=new_run_id() if thread_id is None else check.check_id("thread_id", thread_id),
            user_id=check.check_optional_id("user_id", user_id),
            metadata=check.check_metadata(metadata),
            ttl_ms=self._expiry.temporary_ms if temporary else check.check_ttl("ttl", ttl),
            temporary=check.check_flag("temporary", temporary),
            existing_ok=check.check_choice("if_exists", if_exists, ("raise", "do_nothing")) == "do_nothing",
        )
        if new.ttl_ms is not None:
            self._expiry.begin()
        return await self._store.create_thread(new)

    async def get(self, thread_id: str, *, user_id: str | None = None) -> ThreadRow:
        """The thread with its derived status and values. Raises ThreadNotFound."""
        self._home.check()
        thread = await self._store.thread(
            check.check_id("thread_id", thread_id), user_id=check.check_optional_id("user_id", user_id)
        )
        if thread is None:
            raise ThreadNotFound(thread_id)
        return thread

    async def search(
        self, query: ThreadQuery | None = None, *, user_id: str | None = None
    ) -> Page[ThreadRow]:
        """A page of threads; default: the ten that changed last. Raises SearchTooLong after
        `search_timeout` (s)."""
        self._home.check()
        return await self._store.threads(_checked(query), user_id=check.check_optional_id("user_id", user_id))

    async def count(self, query: ThreadQuery | None = None, *, user_id: str | None = None) -> int:
        """The number of threads that match, on all pages. Raises SearchTooLong."""
        self._home.check()
        return await self._store.count_threads(
            _checked(query), user_id=check.check_optional_id("user_id", user_id)
        )

    async def update(
        self,
        thread_id: str,
        *,
        metadata: JsonObject | None = None,
        ttl: check.TimeToLive = "unchanged",
        user_id: str | None = None,
    ) -> ThreadRow:
        """Merge `metadata` key by key; set the time to live (s; None = no expiry). Works while the thread is
        busy. Raises ThreadNotFound."""
        self._home.check()
        patch = ThreadPatch(
            metadata=check.check_metadata(metadata),
            ttl_ms=None if ttl == "unchanged" else check.check_ttl("ttl", ttl),
            sets_ttl=ttl != "unchanged",
        )
        if patch.ttl_ms is not None:
            self._expiry.begin()
        return await self._store.patch_thread(
            check.check_id("thread_id", thread_id), patch, user_id=check.check_optional_id("user_id", user_id)
        )

    async def copy(self, source: str, target: str, *, user_id: str | None = None) -> None:
        """Copy the state of `source` to `target`, with its assistant. Raises ThreadNotFound; ConflictError
        while a run is in flight on `target`."""
        self._home.check()
        await self._operations.copy(
            check.check_id("source", source),
            check.check_id("target", target),
            check.check_optional_id("user_id", user_id),
        )

    async def delete(self, thread_id: str, *, user_id: str | None = None) -> None:
        """Remove the thread, its state and its runs. Raises ThreadNotFound; ConflictError while a run is in
        flight."""
        self._home.check()
        await self._operations.delete(
            check.check_id("thread_id", thread_id), check.check_optional_id("user_id", user_id)
        )

    # -- state

    async def state(
        self,
        thread_id: str,
        at: CheckpointRef | None = None,
        *,
        subgraphs: bool = False,
        user_id: str | None = None,
    ) -> StateView | None:
        """The thread's state as its assistant reports it, current or at a checkpoint; None if there is no
        such checkpoint. Works while a run is active. Raises ThreadNotFound."""
        self._home.check()
        checkpoint, nested = check.check_checkpoint("at", at), check.check_flag("subgraphs", subgraphs)
        owner = check.check_optional_id("user_id", user_id)
        thread = await self.get(thread_id, user_id=owner)
        assistant = self._assistants.reading(thread.assistant_id)
        view = await assistant.state(thread_id, checkpoint, subgraphs=nested, user=_user(owner))
        return StateView() if view is None and checkpoint is None else view

    def history(
        self,
        thread_id: str,
        *,
        limit: int = 10,
        before: CheckpointRef | None = None,
        metadata: dict[str, Json] | None = None,
        user_id: str | None = None,
    ) -> AsyncIterator[StateView]:
        """Iterate over the thread's states, newest first; a plain function has only the last one. Raises
        InvalidArgument; ThreadNotFound while iterating."""
        self._home.check()
        return self._history(
            check.check_id("thread_id", thread_id),
            limit=check.check_limit("limit", limit),
            before=check.check_checkpoint("before", before),
            metadata=check.check_metadata(metadata),
            user_id=check.check_optional_id("user_id", user_id),
        )

    async def _history(
        self,
        thread_id: str,
        *,
        limit: int,
        before: CheckpointRef | None,
        metadata: dict[str, Json],
        user_id: str | None,
    ) -> AsyncIterator[StateView]:
        thread = await self.get(thread_id, user_id=user_id)
        assistant = self._assistants.reading(thread.assistant_id)
        views = assistant.history(
            thread_id, limit=limit, before=before, metadata=metadata, user=_user(user_id)
        )
        async for view in views:
            yield view

    async def update_state(
        self,
        thread_id: str,
        values: Json,
        *,
        as_node: str | None = None,
        at: CheckpointRef | None = None,
        user_id: str | None = None,
    ) -> CheckpointRef:
        """Change the thread's state through its assistant, as an operation that holds the thread. For a plain
        function the given keys replace the existing ones. Raises ThreadNotFound, InvalidArgument;
        ConflictError while a run is in flight."""
        self._home.check()
        return await self._operations.update_state(
            check.check_id("thread_id", thread_id),
            check.check_json("values", values),
            as_node=check.check_optional_id("as_node", as_node),
            at=check.check_checkpoint("at", at),
            user_id=check.check_optional_id("user_id", user_id),
        )

    async def replace_values(self, thread_id: str, values: Json, *, user_id: str | None = None) -> None:
        """Replace the thread's values, as an operation that holds the thread. Raises ConflictError while a
        run is in flight."""
        self._home.check()
        await self._operations.update_values(
            check.check_id("thread_id", thread_id),
            check.check_json("values", values),
            check.check_optional_id("user_id", user_id),
        )

    async def initialise(
        self, thread: ThreadRow, steps: Sequence[StateStep], *, made: bool, user_id: str | None = None
    ) -> None:
        """Apply `steps` in order to a new thread, as one operation that holds it. Does nothing if a run or
        an operation has held the thread since `thread` was read. If a step is refused, the thread is removed
        if `made` (the caller has created it), else it stays, without state. Raises InvalidArgument,
        ConflictError."""
        self._home.check()
        for step in steps:
            check.check_json("values", step.values)
            check.check_optional_id("as_node", step.as_node)
        await self._operations.initialise(
            thread,
            steps,
            made=check.check_flag("made", made),
            user_id=check.check_optional_id("user_id", user_id),
        )

    def hold(
        self, thread_id: str, name: str, *, user_id: str | None = None
    ) -> AbstractAsyncContextManager[Ownership]:
        """Hold the thread for the block, as an operation of the caller's own. Raises ConflictError while a
        run is in flight."""
        self._home.check()
        return self._operations.holding(
            check.check_id("thread_id", thread_id),
            check.check_id("name", name),
            check.check_optional_id("user_id", user_id),
        )


def _user(user_id: str | None) -> User | None:
    return None if user_id is None else User(user_id)


def _checked(query: ThreadQuery | None) -> ThreadQuery:
    given = query or ThreadQuery()
    if given.status is not None:
        check.check_choice("status", given.status, THREAD_STATUSES)
    check.check_choice("sort_by", given.sort_by, get_args(ThreadOrder))
    check.check_choice("sort_order", given.sort_order, get_args(Direction))
    check.check_metadata(given.metadata)
    check.check_metadata(given.values, "values")
    check.check_limit("limit", given.limit)
    check.check_limit("offset", given.offset)
    for thread_id in given.ids or ():
        check.check_id("ids", thread_id)
    return given
