"""Faults of the store's file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tests.faults.outage import Outage
from tests.faults.sqlite import SQLite
from tests.faults.stage import PATIENCE, Stage


class Lock(Outage):
    """Another program holds the file's write lock."""

    name = "store file locked for 5 s"
    over = "store file unlocked"
    lasts = 7.0

    @asynccontextmanager
    async def lasting(self, stage: Stage) -> AsyncGenerator[None]:
        assert isinstance(stage.engine, SQLite)
        cx = await asyncio.to_thread(_locked, str(stage.engine.database))
        try:
            await asyncio.sleep(5.0)
        finally:
            cx.rollback()
            cx.close()
        yield


def _locked(database: str) -> sqlite3.Connection:
    cx = sqlite3.connect(database, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
    cx.execute("BEGIN IMMEDIATE")
    return cx
