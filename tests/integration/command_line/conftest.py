"""What tests of the command line share."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.support.command_line import (
    DONE,
    Busy,
    busy_worker,
    cli,
)


@pytest.fixture
async def busy(tmp_path: Path) -> AsyncGenerator[Busy]:
    async with busy_worker(tmp_path / "runs.db") as busy:
        yield busy


@pytest.fixture
async def empty(tmp_path: Path) -> str:
    """The URL of a store in which nothing has happened."""
    url = f"sqlite:///{tmp_path / 'empty.db'}"
    assert (await cli("db", "migrate", "--store", url)).code == DONE
    return url
