"""Operations: updates, copies and deletions that hold a thread like a run.

Without them a state update on one worker would race a run on another. An operation is admitted with
`reject`, has its own fence, and is listed in the audit but not among runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from typing import Protocol

from coordinator.assistants.left import LeftState
from coordinator.assistants.ports import Assistant, PrunableStates, ThreadStates
from coordinator.assistants.registry import Assistants
from coordinator.assistants.removal import StateRemoval
from coordinator.assistants.values import StoredValues
from coordinator.context import RunContext, current_run
from coordinator.errors import ConflictError, CoordinatorError, InvalidArgument, LeaseLost, ThreadNotFound
from coordinator.runs.admission import Admissions
from coordinator.runs.entry import Entry
from coordinator.runs.execution import Execution, OperationServices
from coordinator.runs.exits import contained
from coordinator.runs.lifecycle import Lifecycle
from coordinator.runs.outcomes import text_of
from coordinator.runs.registry import Registry
from coordinator.runs.settlement import Settlement
from coordinator.runs.specs import spec_of
from coordinator.schemas import CheckpointRef, Json, RunStatus, StateStep, User
from stores.base import ValuesStore
from stores.rows import Outcome, Ownership, ThreadRow

logger = logging.getLogger(__name__)


class OperatingStore(ValuesStore, Protocol):
    """Store operations that operations use."""


class HeldThread:
    """A thread that an operation holds, and the outcome of the operation."""

    def __init__(self, own: Ownership, context: RunContext) -> None:
        self.own, self.context = own, context
        self.outcome = Outcome(RunStatus.success)


class Operations:
    def __init__(
        self,
        store: OperatingStore,
        registry: Registry,
        *,
        admissions: Admissions,
        lifecycle: Lifecycle,
        execution: Execution,
        settlement: Settlement,
        values: StoredValues,
        assistants: Assistants,
        removal: StateRemoval,
        state_copy_bytes: int,
    ) -> None:
        self._store, self._registry, self._removal = store, registry, removal
        self._state_copy_bytes = state_copy_bytes
        self._admissions, self._lifecycle, self._settlement = admissions, lifecycle, settlement
        self._execution, self._values, self._assistants = execution, values, assistants

    @asynccontextmanager
    async def holding(self, thread_id: str, name: str, user_id: str | None) -> AsyncGenerator[Ownership]:
        """Holds the thread for the block. Raises ConflictError while a run is in flight on the thread.

        An exception of the block ends the operation as an error and propagates."""
        async with self._held(thread_id, name, user_id) as held:
            yield held.own

    @asynccontextmanager
    async def _held(
        self,
        thread_id: str,
        name: str,
        user_id: str | None,
        *,
        states: ThreadStates | None = None,
        assistant_id: str | None = None,
        at: CheckpointRef | None = None,
        user: User | None = None,
    ) -> AsyncGenerator[HeldThread]:
        """As `holding`, with `states` open for writing. `at`: the checkpoint that its writes follow. `user`:
        passed to the assistant."""
        spec = spec_of(
            thread_id=thread_id,
            user_id=user_id,
            assistant_id=assistant_id,
            metadata={"operation": name},
            kwargs=None if at is None else {"checkpoint": asdict(at)},
            kind="op",
        )
        record = await self._admissions.admit(spec)
        entry = self._registry.entry(record.run_id)
        if entry is None:
            raise ConflictError(thread_id)
        block: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry.work.tracks().add(block)  # so a decision does not free the thread within the block
        outcome = Outcome(RunStatus.success)
        try:
            held = await self._start(entry, states or self._values)
            held.context.user = user or held.context.user
            yield held
            outcome = held.outcome
        except BaseException as error:
            outcome = Outcome(RunStatus.error, text_of(error))
            raise
        finally:
            entry.work.tracks().discard(block)
            block.set_result(None)
            await self._settlement.conclude(entry, outcome)
            self._registry.drop(record.run_id)
        if entry.elsewhere:
            raise LeaseLost(held.own.epoch)

    async def _start(self, entry: Entry, states: ThreadStates) -> HeldThread:
        """Starts the operation. Raises StoreUnavailable; ConflictError if it was decided before."""
        started = await self._lifecycle.start(entry, states, patient=False)
        hold = entry.state.hold
        if started is None or hold is None:
            raise ConflictError(entry.record.thread_id)
        return HeldThread(hold.own, self._execution.context(entry, hold, started, OperationServices))

    async def update_values(self, thread_id: str, values: Json, user_id: str | None) -> None:
        async with self._held(thread_id, "update", user_id) as held:
            await self._values.save(held.own, values)

    async def update_state(
        self,
        thread_id: str,
        values: Json,
        *,
        as_node: str | None,
        at: CheckpointRef | None,
        user_id: str | None,
        user: User | None,
    ) -> CheckpointRef:
        """Updates the state through the thread's assistant, whose values become the thread's. Raises
        ThreadNotFound, InvalidArgument, ConflictError."""
        thread = await self._visible(thread_id, user_id)
        assistant_id = self._assistants.of_thread(thread)
        self._check_assistant(thread_id, assistant_id)
        assistant = self._assistants.reading(assistant_id)
        async with self._held(
            thread_id,
            "update state",
            user_id,
            states=assistant.states,
            assistant_id=assistant_id,
            at=at,
            user=user,
        ) as held:
            new = await _updated(held, assistant.update_state(held.context, values, as_node=as_node, at=at))
            await self._keep(held, assistant)
        return new

    def _check_assistant(self, thread_id: str, assistant_id: str | None) -> None:
        """Without an assistant the values would be written to the storage of functions, where the assistant
        of the first run may not read them. Raises InvalidArgument."""
        if assistant_id is None and len(self._assistants.kinds) > 1:
            raise InvalidArgument(
                "thread",
                f"{thread_id!r} has no assistant yet: run one on it first, or set graph_id in its metadata"
                f" to one of {self._assistants.listed}",
            )
        if assistant_id is not None and assistant_id not in self._assistants:
            why = f"the thread's, {assistant_id!r}, is not known to this worker"
            raise InvalidArgument("assistant", why)

    async def initialise(
        self,
        thread: ThreadRow,
        supersteps: Sequence[Sequence[StateStep]],
        *,
        made: bool,
        user_id: str | None,
        user: User | None,
    ) -> None:
        """Applies `supersteps` as one operation to a thread that no run or operation has held since `thread`
        was read; a thread that was held since stays unchanged. If an update is refused, the thread loses its
        state and, if the caller has `made` it, is deleted before the error is raised; if runs are queued on
        it, it stays, empty. Raises InvalidArgument, ConflictError."""
        assistant_id = self._assistants.of_thread(thread)
        assistant = self._assistants.reading(assistant_id)
        refusal: BaseException | None = None
        async with self._held(
            thread.thread_id,
            "first state",
            user_id,
            states=assistant.states,
            assistant_id=assistant_id,
            user=user,
        ) as held:
            if held.own.fence != thread.fence + 1:
                return
            try:
                self._check_assistant(thread.thread_id, assistant_id)
                await _updated(held, assistant.update_states(held.context, supersteps))
                await self._keep(held, assistant)
            except BaseException as error:  # noqa: BLE001 - raised below, when the thread is free
                refusal = error
                await (self._remove if made else self._clear)(held)
        if refusal is not None:
            raise refusal

    async def _keep(self, held: HeldThread, assistant: Assistant) -> None:
        """Sets the outcome so that a state which the assistant stores itself becomes the thread's values, and
        the thread's status follows from it."""
        elsewhere = assistant.states is not self._values and not held.context.saved
        view = await assistant.state(held.own.thread_id, user=held.context.user) if elsewhere else None
        if view is not None:
            left = LeftState.of(view, assistant, copy_bytes=self._state_copy_bytes)
            held.outcome = held.outcome._replace(
                values=left.values, interrupts=left.interrupts, paused=bool(view.next)
            )

    async def copy(self, source: str, target: str, user_id: str | None) -> None:
        """Copies the state and the assistant of `source` to `target`. Raises ThreadNotFound,
        ConflictError."""
        thread = await self._visible(source, user_id)
        assistant_id = self._assistants.of_thread(thread)
        async with self._held(target, f"copy of {source}", user_id, assistant_id=assistant_id) as held:
            await self._removal.note(held.own)
            with _as(held.context):
                for states in self._assistants.kinds:
                    await states.copy(source, target, held.own.run_id, held.own.fence)

    async def delete(self, thread_id: str, user_id: str | None) -> None:
        """Deletes the thread with its state and its runs. Runs that were admitted meanwhile and are queued
        keep the thread, which is empty then. Raises ThreadNotFound, ConflictError."""
        await self._visible(thread_id, user_id)
        async with self._held(thread_id, "delete", user_id) as held:
            await self._remove(held)
        for record in self._registry.of_thread(thread_id):
            self._registry.removed(record.run_id)

    async def keep_latest(self, thread_id: str, user_id: str | None) -> None:
        """Removes the former states of the thread; the current one stays. Raises ThreadNotFound,
        ConflictError, InvalidArgument."""
        assistant_id = self._assistants.of_thread(await self._visible(thread_id, user_id))
        if assistant_id is not None:
            self._check_assistant(thread_id, assistant_id)
        states = self._assistants.reading(assistant_id).states
        elsewhere = states is not self._values
        if not isinstance(states, PrunableStates):
            raise InvalidArgument("thread", f"{thread_id!r}: its storage cannot remove former states")
        async with self._held(
            thread_id, "keep latest", user_id, states=states, assistant_id=assistant_id
        ) as held:
            own = held.own
            with _as(held.context):
                await states.keep_latest(thread_id, own.run_id, own.fence)
                if elsewhere:  # rows of runs have copies of the values
                    await self._values.keep_latest(thread_id, own.run_id, own.fence)

    async def _remove(self, held: HeldThread) -> None:
        await self._store.delete_thread(held.own)
        with _as(held.context):
            await self._removal.of_thread(held.own)

    async def _clear(self, held: HeldThread) -> None:
        own = held.own
        with _as(held.context):
            for states in self._assistants.kinds:
                await states.delete(own.thread_id, own.run_id, own.fence)

    async def _visible(self, thread_id: str, user_id: str | None) -> ThreadRow:
        thread = await self._store.thread(thread_id, user_id=user_id)
        if thread is None:
            raise ThreadNotFound(thread_id)
        return thread


async def _updated(held: HeldThread, update: Coroutine[object, object, CheckpointRef]) -> CheckpointRef:
    """Awaits an update of the state. An exception of the assistant's code, for example of a reducer that does
    not accept the values, is raised as InvalidArgument and logged."""
    with _as(held.context):
        try:
            return await contained(update)
        except CoordinatorError:
            raise
        except Exception as error:
            logger.warning("The update of thread %r failed", held.own.thread_id, exc_info=error)
            raise InvalidArgument("values", f"the assistant refused them: {text_of(error)}") from error


@contextmanager
def _as(context: RunContext) -> Generator[None]:
    """Within the block, the code and its new tasks belong to the operation."""
    token = current_run.set(context)
    try:
        yield
    finally:
        current_run.reset(token)
