"""Ends the runs that a sweep has read, each in a transaction of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from stores.errors import RowLocked, StoreUnavailable
from stores.rows import Orphan
from stores.sql.postgres.workers import Orphaned

logger = logging.getLogger(__name__)

ADOPTED_AT_ONCE = 64
"""A sweep leaves further runs to the sweeps of other workers, and to its next one."""
_LOOKS = 8  # how many are ended at once


async def end_all(
    orphaned: list[Orphaned], end: Callable[[Orphaned], Awaitable[Orphan | None]]
) -> list[Orphan]:
    """Several at once, but for those that another run has started. They come after it, one by one: their
    parent's end may cancel them, and then this call has ended them as well. A locked run is left to the next
    sweep. Where the store becomes unavailable meanwhile, the runs that were ended are returned all the same.
    """
    room, epochs = asyncio.Semaphore(_LOOKS), {one.run_id: one.epoch for one in orphaned}
    orphans: dict[str, Orphan] = {}
    taken = set[str]()

    async def end_one(one: Orphaned) -> None:
        async with room:
            orphan = await end(one)
        family = () if orphan is None else orphan.children
        taken.update(child.run_id for child in family)
        for child in family:
            if child.settled and child.run_id in epochs:
                epoch = epochs[child.run_id]
                orphans[child.run_id] = Orphan(child.run_id, child.thread_id, child.status, epoch)
        if orphan is not None:
            orphans[one.run_id] = replace(orphan, decided=orphan.decided and one.run_id not in taken)

    parents = (end_one(one) for one in orphaned if not one.child)
    answers = await asyncio.gather(*parents, return_exceptions=True)
    faults = [fault for fault in answers if fault is not None]
    for one in orphaned:
        if one.child and one.run_id not in orphans:
            try:
                await end_one(one)
            except StoreUnavailable as fault:
                faults.append(fault)
    return _ended_or_raise(list(orphans.values()), faults)


async def adopt_all(
    orphaned: list[Orphaned], adopt: Callable[[Orphaned], Awaitable[Orphan | None]]
) -> list[Orphan]:
    """Those of the runs that may continue, one after another, at most ADOPTED_AT_ONCE. A locked run is left
    to the next sweep; if the store becomes unavailable, all further ones are, and what was adopted is
    returned all the same."""
    adopted: list[Orphan] = []
    for one in orphaned:
        if len(adopted) == ADOPTED_AT_ONCE:
            break
        try:
            orphan = await adopt(one) if one.adoptable else None
        except RowLocked as locked:
            logger.warning("Run %r is locked and continued by the next sweep: %s", one.run_id, locked)
            continue
        except StoreUnavailable as fault:
            logger.warning("Run %r and further ones are continued by the next sweep: %s", one.run_id, fault)
            break
        if orphan is not None:
            adopted.append(orphan)
    return adopted


def _ended_or_raise(orphans: list[Orphan], faults: list[BaseException]) -> list[Orphan]:
    """The runs that were ended. Raises where none was, for a reason that is not one row's."""
    locked = [fault for fault in faults if isinstance(fault, RowLocked)]
    others = [fault for fault in faults if not isinstance(fault, RowLocked)]
    if others and not orphans:
        raise others[0]
    if locked:
        logger.warning(
            "%d runs of dead workers are locked by other transactions and left to the next sweep: %s",
            len(locked),
            locked[0],
        )
    for fault in others[:1]:
        logger.warning("%d runs of dead workers are left to the next sweep: %s", len(others), fault)
    return orphans
