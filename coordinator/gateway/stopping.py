"""Runs that have to stop before what was asked for can be done."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from coordinator.errors import ConflictError
from coordinator.facade.catalogue import InFlight
from coordinator.gateway.caller import Caller
from coordinator.manager import RunManager
from coordinator.schemas import Cause
from stores.rows import RunRow

WITHIN = 120.0
"""Seconds for tasks to stop, or for their dead worker to be buried."""

_TRIES = 5
_PAUSE = 0.05
_PAGE = 1000


async def cancel_in_flight(
    manager: RunManager,
    status: InFlight = "all",
    *,
    action: str,
    caller: Caller,
    thread_id: str | None = None,
    only: frozenset[str] | None = None,
) -> int:
    """Cancel what is in flight: what has that status, of those that are named. How many there were; their
    cancels are written down when this returns."""
    found, last = 0, ""
    while page := await manager.inflight_runs(
        status, thread_id=thread_id, after=last or None, limit=_PAGE, user_id=caller.user_id
    ):
        last = page[-1].run_id
        wanted = [run for run in page if only is None or run.run_id in only]
        found += sum(await _cancel_all(manager, wanted, action=action, caller=caller, wait=None))
    return found


async def delete_run(manager: RunManager, run: RunRow, caller: Caller) -> None:
    """Stop it if need be, and remove it when its thread is free. Raises RunNotFound, ConflictError,
    NotSettled."""
    for attempt in range(_TRIES):
        try:
            await manager.delete_run(run.run_id, thread_id=run.thread_id, user_id=caller.user_id)
        except ConflictError:
            if attempt == _TRIES - 1:
                raise
        else:
            return
        await _cancel_all(manager, [run], action="interrupt", caller=caller, wait=WITHIN)
        await asyncio.sleep(_PAUSE * attempt)


async def delete_thread(manager: RunManager, thread_id: str, caller: Caller) -> None:
    """Stop what is in flight on the thread, and remove it. Raises ThreadNotFound; ConflictError where others
    are quicker to begin runs than these are stopped; NotSettled."""
    for attempt in range(_TRIES):
        try:
            await manager.delete_thread(thread_id, user_id=caller.user_id)
        except ConflictError:
            if attempt == _TRIES - 1:
                raise
        else:
            return
        runs = await manager.inflight_runs(thread_id=thread_id, limit=_PAGE, user_id=caller.user_id)
        await _cancel_all(manager, runs, action="interrupt", caller=caller, wait=WITHIN)
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
