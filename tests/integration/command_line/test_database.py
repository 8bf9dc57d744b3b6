"""`coordinator db`."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli.database import problems_of, warnings_of
from coordinator.servers.process import free_port
from coordinator.servers.valkey import ValkeyServer
from stores.inspection import Inspection
from stores.sql import migration
from stores.sql.migration import FIRST
from tests.support.builders import stored
from tests.support.children import Child
from tests.support.command_line import (
    DONE,
    FAILED,
    UNREACHABLE,
    Busy,
    busy_worker,
    cli,
)
from tests.support.waiting import wait_until

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


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("ALTER TABLE runs RENAME COLUMN model_name TO model", "column runs.model_name is missing"),
        ("ALTER TABLE runs RENAME COLUMN status TO state", "column runs.status is missing"),
        ("ALTER TABLE crons RENAME TO jobs", "table crons is missing"),
        ("DROP INDEX {index}", "index {index} is missing"),
        ("DROP TRIGGER {trigger}", "trigger {trigger} is missing"),
    ],
)
async def test_check_lists_what_is_missing_in_a_file(tmp_path: Path, change: str, problem: str) -> None:
    path = tmp_path / "runs.db"
    store = ("--store", f"sqlite:///{path}")
    await cli("db", "migrate", *store)
    stored(path, "CREATE TABLE another_program (id)")  # no fault
    assert (await cli("db", "check", *store)).code == DONE
    names = {
        kind: min(stored(path, f"SELECT name FROM sqlite_schema WHERE type = '{kind}' AND sql IS NOT NULL"))
        for kind in ("index", "trigger")
    }
    stored(path, change.format(**names))
    answer = await cli("db", "check", *store, "--json")
    assert answer.code == FAILED
    [listed] = answer.document["check"]["problems"]
    assert listed.startswith(f"{problem.format(**names)}: ")


async def test_check_compares_redis_with_what_the_workers_use(
    tmp_path: Path, own_valkey: ValkeyServer
) -> None:
    redis = f"redis://{own_valkey.host}:{own_valkey.port}/0"
    async with busy_worker(tmp_path / "with.db", redis=redis, canary=0.05) as busy:

        async def entered() -> bool:
            answer = await busy.cli("db", "check", "--redis", redis, "--json")
            check = answer.document["check"]
            lacks = [warning for warning in check["warnings"] if "in this Redis" in warning]
            return (check["redis"], check["redis_workers"], lacks) == ("ok", 1, [])

        await wait_until(entered, description="the worker is present in Redis")
        shown = await busy.cli("db", "check", "--redis", redis)
        assert "usable from here; used by 1 of 1 live worker" in shown.out
        other = await busy.cli("db", "check", "--redis", redis, "--namespace", "other", "--json")
    assert (other.code, other.document["check"]["redis"]) == (DONE, "ok")
    assert other.document["check"]["redis_workers"] == 0
    assert "another namespace than 'other'" in " ".join(other.document["check"]["warnings"])
    async with busy_worker(tmp_path / "without.db") as busy:
        # The worker above has had the same epoch, and its key lives on for a moment.
        answer = await busy.cli("db", "check", "--redis", redis, "--namespace", "fresh")
    assert "usable from here; used by 0 of 1 live worker" in answer.out
    assert "1 of 1 live worker without an entry in this Redis" in answer.err


WAITS = """
import asyncio
from coordinator import open_coordinator
async def main():
    async with open_coordinator(f"sqlite:///{args[0]}"):
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_check_judges_exited_workers_as_the_list_does(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    env = {"COORDINATOR_STORE": f"sqlite:///{path}"}
    with Child(WAITS, path) as worker:
        await wait_until(lambda: workers_in(path) == ["live"], description="the worker is registered")
        before = (await cli("db", "check", "--json", env=env)).document["check"]
        worker.kill()
    [listed] = (await cli("workers", "list", "--json", env=env)).document["workers"]
    assert listed["gone"]
    after = (await cli("db", "check", "--json", env=env)).document["check"]
    assert [(check["workers_alive"], check["workers_exited"]) for check in (before, after)] == [
        (1, 0),
        (0, 1),
    ]
    shown = await cli("db", "check", env=env)
    assert "0 (1 exited, not declared dead yet)" in shown.out
    assert "1 worker exited and is not declared dead yet" in shown.err


def workers_in(path: Path) -> list[Any]:
    try:
        return stored(path, "SELECT state FROM workers")
    except sqlite3.OperationalError:  # the worker has not created the store yet
        return []


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
