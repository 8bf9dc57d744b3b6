"""What integration tests share."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from stores.sqlite import SQLiteStore
from tests.support.inside_stores import open_gates
from tests.support.waiting import wait_until


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
async def open_sqlite(sqlite_path: Path) -> AsyncGenerator[Callable[..., Any]]:
    """Opens stores on the file; all are closed at the end, and nothing of theirs is left."""
    stores: list[SQLiteStore] = []

    async def open_(at: Path = sqlite_path, **options: Any) -> SQLiteStore:
        stores.append(SQLiteStore(at, **options))
        await stores[-1].open()
        return stores[-1]

    yield open_
    for store in stores:
        await store.aclose()
    await wait_until(lambda: not open_gates(), description="every gate is given back")
