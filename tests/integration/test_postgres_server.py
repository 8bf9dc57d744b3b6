"""The PostgreSQL that tests, benchmarks and the demo start: it is real, it crashes, it is followed."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from coordinator.servers.postgres import BIN_VARIABLE, PostgresServer
from coordinator.servers.process import ServerError


@pytest.fixture(scope="module")
def server() -> Generator[PostgresServer]:
    with PostgresServer(durable=False) as server:
        yield server


async def fetch_value(server: PostgresServer, query: str) -> Any:
    cx = await asyncpg.connect(server.url())
    try:
        return await cx.fetchval(query)
    finally:
        await cx.close()


async def test_what_was_committed_survives_a_crash(server: PostgresServer) -> None:
    await fetch_value(server, "CREATE TABLE kept AS SELECT 1 AS n")
    server.restart("immediate")
    assert await fetch_value(server, "SELECT n FROM kept") == 1
    assert "not properly shut down" in server.log()


async def test_a_standby_follows_and_is_promoted(server: PostgresServer) -> None:
    standby = server.standby()
    try:
        assert await fetch_value(standby, "SELECT pg_is_in_recovery()") is True
        standby.promote()
        assert await fetch_value(standby, "SELECT pg_is_in_recovery()") is False
    finally:
        standby.close()


async def test_who_has_no_password_is_not_let_in(server: PostgresServer) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.url(password="wrong"))


def test_programs_that_do_not_run_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BIN_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(ServerError, match="nowhere"):
        PostgresServer().__enter__()
