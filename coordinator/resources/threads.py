"""`manager.threads`: threads, their state, and short operations that hold them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, get_args

from coordinator import arguments as check
from coordinator.assistants.registry import Assistants
from coordinator.assistants.thread_values import ThreadValues
from coordinator.errors import InvalidArgument, ThreadNotFound
from coordinator.ids import new_run_id
from coordinator.notifier import Notifier, Signal, Wakeup
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
        notifier: Notifier,
    ) -> None:
        self._store, self._home, self._operations = store, home, operations
        self._assistants, self._expiry, self._notifier = assistants, expiry, notifier
        self._values = ThreadValues(assistants)

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
        its runs that long after its last use. `temporary`: removed after `keep_temporary` s, or `ttl`, and
        not listed.

        Raises ThreadExists if the id is taken, by any user. With `do_nothing`, the existing thread is
        returned unchanged if it is this user's.
        """
        self._home.check()
        new = NewThread(
            thread_id=new_run_id() if thread_id is None else check.check_id("thread_id", thread_id),
            user_id=check.check_optional_id("user_id", user_id),
            metadata=check.check_metadata(metadata),
            ttl_ms=self._expiry.temporary_ms if temporary and ttl is None else check.check_ttl("ttl", ttl),
            temporary=check.check_flag("temporary", temporary),
            existing_ok=check.check_choice("if_exists", if_exists, ("raise", "do_nothing")) == "do_nothing",
        )
        if new.ttl_ms is not None:
            self._expiry.begin()
        return await self._values.of(await self._store.create_thread(new), user_id)

    async def get(self, thread_id: str, *, with_values: bool = True, user_id: str | None = None) -> ThreadRow:
        """The thread with its derived status and values. `with_values=False`: large values of an assistant
        with a storage of its own are not read; they are None. Raises ThreadNotFound."""
        self._home.check()
        owner = check.check_optional_id("user_id", user_id)
        thread = await self._store.thread(check.check_id("thread_id", thread_id), user_id=owner)
        if thread is None:
            raise ThreadNotFound(thread_id)
        return await self._values.of(thread, owner, read=check.check_flag("with_values", with_values))

    async def search(
        self, query: ThreadQuery | None = None, *, with_values: bool = True, user_id: str | None = None
    ) -> Page[ThreadRow]:
        """A page of threads; default: the ten that changed last. `with_values`: as in `get`. A filter by
        values finds only those in the store. Raises SearchTooLong after `search_timeout` (s)."""
        self._home.check()
        given, owner = _checked(query), check.check_optional_id("user_id", user_id)
        page = await self._store.threads(given, user_id=owner)
        read = check.check_flag("with_values", with_values)
        return await self._values.of_page(page, owner, max_bytes=given.max_bytes, read=read)

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
        owner = check.check_optional_id("user_id", user_id)
        row = await self._store.patch_thread(check.check_id("thread_id", thread_id), patch, user_id=owner)
        return await self._values.of(row, owner)

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

    async def keep_latest(self, thread_id: str, *, user_id: str | None = None) -> None:
        """Remove the thread's former states; its current state, its runs and their results stay. Raises
        ThreadNotFound, InvalidArgument if its assistant cannot; ConflictError while a run is in flight."""
        self._home.check()
        await self._operations.keep_latest(
            check.check_id("thread_id", thread_id), check.check_optional_id("user_id", user_id)
        )

    # -- changes

    def changes(self, thread_id: str) -> AbstractAsyncContextManager[Wakeup]:
        """Within the block the wake-up is set when a run of the thread settles, and by `notify` on any
        worker. It is a hint, and may be lost: read again after some time in any case."""
        self._home.check()
        return self._notifier.watch(check.check_id("thread_id", thread_id))

    def notify(self, thread_id: str) -> None:
        """Wake those that watch the thread on any worker. Fire and forget."""
        self._home.check()
        checked = check.check_id("thread_id", thread_id)
        self._notifier.notify_thread(checked, Signal(kind="settled", thread_id=checked))

    # -- state

    async def state(
        self,
        thread_id: str,
        at: CheckpointRef | None = None,
        *,
        subgraphs: bool = False,
        user_id: str | None = None,
        user: User | None = None,
    ) -> StateView | None:
        """The thread's state as its assistant reports it, current or at a checkpoint; None if there is no
        such checkpoint. Works while a run is active. `user`: passed to the assistant; default: a user without
        permissions. Raises ThreadNotFound."""
        self._home.check()
        checkpoint, nested = check.check_checkpoint("at", at), check.check_flag("subgraphs", subgraphs)
        owner = check.check_optional_id("user_id", user_id)
        thread = await self.get(thread_id, with_values=False, user_id=owner)
        assistant = self._assistants.reading(self._assistants.of_thread(thread))
        view = await assistant.state(thread_id, checkpoint, subgraphs=nested, user=_user(owner, user))
        return StateView() if view is None and checkpoint is None else view

    def history(
        self,
        thread_id: str,
        *,
        limit: int = 10,
        namespace: str = "",
        before: CheckpointRef | None = None,
        metadata: dict[str, Json] | None = None,
        user_id: str | None = None,
        user: User | None = None,
    ) -> AsyncIterator[StateView]:
        """Iterate over the thread's states, newest first. `namespace`: those of a subgraph of its assistant.
        `user`: as in `state`. Raises InvalidArgument; ThreadNotFound while iterating."""
        self._home.check()
        return self._history(
            check.check_id("thread_id", thread_id),
            limit=check.check_limit("limit", limit),
            namespace=check.check_needed_text("namespace", namespace),
            before=check.check_checkpoint("before", before),
            metadata=check.check_metadata(metadata),
            user_id=check.check_optional_id("user_id", user_id),
            user=_user(user_id, user),
        )

    async def _history(
        self,
        thread_id: str,
        *,
        limit: int,
        namespace: str,
        before: CheckpointRef | None,
        metadata: dict[str, Json],
        user_id: str | None,
        user: User | None,
    ) -> AsyncIterator[StateView]:
        thread = await self.get(thread_id, with_values=False, user_id=user_id)
        assistant = self._assistants.reading(self._assistants.of_thread(thread))
        views = assistant.history(
            thread_id,
            limit=limit,
            namespace=namespace,
            before=before,
            metadata=metadata,
            user=user,
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
        user: User | None = None,
    ) -> CheckpointRef:
        """Change the thread's state through its assistant, as an operation that holds the thread. For a plain
        function the given keys replace the existing ones. `user`: as in `state`. Raises ThreadNotFound,
        InvalidArgument; ConflictError while a run is in flight."""
        self._home.check()
        return await self._operations.update_state(
            check.check_id("thread_id", thread_id),
            check.check_json("values", values),
            as_node=check.check_optional_id("as_node", as_node),
            at=check.check_checkpoint("at", at),
            user_id=check.check_optional_id("user_id", user_id),
            user=_user(user_id, user),
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
        self,
        thread: ThreadRow,
        supersteps: Sequence[Sequence[StateStep]],
        *,
        made: bool,
        user_id: str | None = None,
        user: User | None = None,
    ) -> None:
        """Apply `supersteps` in order to a new thread, as one operation that holds it; the updates of one
        superstep are parallel. Does nothing if a run or an operation has held the thread since `thread` was
        read. If an update is refused, the thread is removed if `made` (the caller has created it), else it
        stays, without state. `user`: as in `state`. Raises InvalidArgument, ConflictError."""
        self._home.check()
        for step in (step for superstep in supersteps for step in superstep):
            check.check_json("values", step.values)
            check.check_optional_id("as_node", step.as_node)
        await self._operations.initialise(
            thread,
            supersteps,
            made=check.check_flag("made", made),
            user_id=check.check_optional_id("user_id", user_id),
            user=_user(user_id, user),
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


def _user(user_id: str | None, given: User | None) -> User | None:
    """Returns the user for the assistant. Raises InvalidArgument if `given` is not the user of the call."""
    if given is not None and check.check_instance("user", given, User).user_id != user_id:
        raise InvalidArgument("user", "must be the user of user_id")
    return given if given is not None or user_id is None else User(user_id)


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
