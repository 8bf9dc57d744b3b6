"""Operations that stop runs first: cancel, delete a run, delete a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from coordinator.errors import ConflictError
from coordinator.gateway.caller import Caller
from coordinator.manager import RunManager
from coordinator.resources.runs import InFlight
from coordinator.schemas import Cause
from stores.rows import RunRow

STOP_TIMEOUT = 120.0
"""Seconds for tasks to stop, or for their worker to be declared dead."""

_MAX_ATTEMPTS = 5
_PAUSE = 0.05
_PAGE = 1000


async def cancel_in_flight(
    manager: RunManager,
    status: InFlight = "all",
    *,
    action: str,
    caller: Caller,
    thread_id: str | None = None,
    run_ids: frozenset[str] | None = None,
) -> int:
    """Cancels the runs in flight that have `status` and, if `run_ids` is given, are in it. Returns their
    number. The cancels are committed when this returns, each by itself."""
    count, last = 0, ""
    while page := await manager.runs.in_flight(
        status, thread_id=thread_id, after=last or None, limit=_PAGE, user_id=caller.user_id
    ):
        last = page[-1].run_id
        selected = [run for run in page if run_ids is None or run.run_id in run_ids]
        count += sum(await _cancel_all(manager, selected, action=action, caller=caller, wait=None))
    return count


async def delete_run(manager: RunManager, run: RunRow, caller: Caller) -> None:
    """Stops the run if it is in flight, and removes it. Raises RunNotFound; ConflictError if the run cannot
    be removed after several attempts; NotSettled if it does not stop in `STOP_TIMEOUT`."""
    for attempt in range(_MAX_ATTEMPTS):
        try:
            await manager.runs.delete(run.run_id, thread_id=run.thread_id, user_id=caller.user_id)
        except ConflictError:
            if attempt == _MAX_ATTEMPTS - 1:
                raise
        else:
            return
        await _cancel_all(manager, [run], action="interrupt", caller=caller, wait=STOP_TIMEOUT)
        await asyncio.sleep(_PAUSE * attempt)


async def delete_thread(manager: RunManager, thread_id: str, caller: Caller) -> None:
    """Stops the runs in flight on the thread, and removes it. Raises ThreadNotFound; ConflictError if other
    requests keep starting runs during several attempts; NotSettled if a run does not stop in
    `STOP_TIMEOUT`."""
    for attempt in range(_MAX_ATTEMPTS):
        try:
            await manager.threads.delete(thread_id, user_id=caller.user_id)
        except ConflictError:
            if attempt == _MAX_ATTEMPTS - 1:
                raise
        else:
            return
        runs = await manager.runs.in_flight(thread_id=thread_id, limit=_PAGE, user_id=caller.user_id)
        await _cancel_all(manager, runs, action="interrupt", caller=caller, wait=STOP_TIMEOUT)
        await asyncio.sleep(_PAUSE * attempt)


async def _cancel_all(
    manager: RunManager, runs: Iterable[RunRow], *, action: str, caller: Caller, wait: float | None
) -> list[bool]:
    return await asyncio.gather(
        *(
            manager.cancel(
                run.run_id,
                action=action,
                cause=Cause.user,
                actor=caller.actor,
                user_id=caller.user_id,
                wait=wait,
            )
            for run in runs
        )
    )
