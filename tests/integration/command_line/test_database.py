"""`coordinator db`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coordinator.cli.database import problems_of, warnings_of
from coordinator.servers.process import free_port
from stores.inspection import Inspection
from stores.sql import migration
from stores.sql.migration import FIRST
from tests.support.command_line import (
    DONE,
    UNREACHABLE,
    Busy,
    cli,
)

MIGRATIONS = sorted(
    int(file.name[:4]) for file in (Path(migration.__file__).parent / "sqlite/migrations").glob("*.sql")
)


async def test_migrate_creates_store_and_is_idempotent(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    first = (await cli("db", "migrate", "--store", url, "--json")).document["migrate"]
    assert first["created"]
    assert [step["number"] for step in first["applied"]] == [FIRST, *MIGRATIONS]
    second = await cli("db", "migrate", "--store", url, "--json")
    assert second.document["migrate"] == {**first, "created": False, "applied": []}
    assert "is up to date" in (await cli("db", "migrate", "--store", url)).out


async def test_check(busy: Busy) -> None:
    answer = await busy.cli("db", "check", "--json")
    assert answer.code == DONE
    check = answer.document["check"]
    assert check["ok"]
    assert check["runs"] == {"pending": 2, "running": 1, "success": 1}
    assert (check["in_flight"], check["waiting"], check["threads"], check["workers_alive"]) == (3, 2, 1, 1)
    assert (check["integrity"], check["version"]) == ("ok", check["newest"])
    assert check["transitions"] > 0
    assert check["disk_free"] > 0
    away = await busy.cli("db", "check", "--redis", f"redis://127.0.0.1:{free_port()}", "--json")
    assert (away.code, away.document["check"]["redis"]) == (UNREACHABLE, "unreachable")


def test_check_lists_problems_and_warnings() -> None:
    sound: dict[str, Any] = {"applied": (), "runs": {}, "in_flight": 0, "waiting": 0, "threads": 0}
    sound |= {"workers_alive": 0, "transitions": 0}
    old = Inspection(version=1, newest=2, faults=("row 3 missing",), workers_expired=2, disk_free=1, **sound)
    assert len(problems_of(old)) == 2
    assert len(warnings_of(old)) == 2


async def test_store_path_of_a_folder_is_refused(tmp_path: Path) -> None:
    for command in (("db", "check"), ("workers", "list"), ("db", "migrate")):
        answer = await cli(*command, "--store", f"sqlite:///{tmp_path}")
        assert answer.code == UNREACHABLE
        assert f"'{tmp_path}' is a folder" in answer.err, answer.err


async def test_check_prints_ok_and_single_sentence_warnings(busy: Busy) -> None:
    answer = await busy.cli("db", "check")
    last = answer.out.splitlines()[-1]
    warnings = [line for line in answer.err.splitlines() if "warning" in line]
    assert last == ("ok, with warnings (on stderr)" if warnings else "ok")
    assert all(line.count(". ") == 0 for line in warnings), warnings
