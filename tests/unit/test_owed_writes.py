"""What is owed to the store is repeated until it is written, and not longer than the store is there."""

from __future__ import annotations

import asyncio

from stores.outbox import Outbox


async def test_nothing_is_owed_to_a_store_that_was_let_go_of() -> None:
    """A write that fails after the close would be repeated for ever, with nobody to end it."""
    outbox, before = Outbox(), asyncio.all_tasks()
    await outbox.aclose()

    async def write() -> None:
        raise OSError("closed")

    outbox.owe("the model name", write)
    assert len(outbox) == 0
    assert asyncio.all_tasks() == before
