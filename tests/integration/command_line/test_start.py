"""What it says of itself, and what it imports to do so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import (
    DONE,
    FAILED,
    MAIN,
    UNREACHABLE,
    USAGE,
    cli,
    interpreter,
)

COMMANDS = [
    ("runs", "list"),
    ("runs", "show"),
    ("runs", "follow"),
    ("runs", "cancel"),
    ("workers", "list"),
    ("threads", "list"),
    ("threads", "show"),
    ("reconcile",),
    ("prune",),
    ("explain",),
    ("db", "migrate"),
    ("db", "check"),
    ("webhooks", "list"),
    ("webhooks", "retry"),
    ("crons", "list"),
    ("crons", "delete"),
    ("db", "copy"),
    ("keys", "create"),
    ("keys", "list"),
    ("keys", "revoke"),
    ("demo",),
    ("serve",),
    ("dev",),
]


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
async def test_help_tells_the_exit_codes(command: tuple[str, ...]) -> None:
    answer = await cli(*command, "--help")
    assert answer.code == DONE
    assert "0 done, 1 failed, 2 usage, 3 store or Redis unreachable" in " ".join(answer.out.split())
    assert answer.err == ""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--version",), DONE),
        (("runs", "show", "nobody"), FAILED),
        (("runs", "lst"), USAGE),
        (("runs", "list", "--store", "sqlite:///nowhere.db"), UNREACHABLE),
    ],
    ids=["done", "failed", "usage", "unreachable"],
)
async def test_started_by_an_interpreter_it_does_the_same(
    empty: str, tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    """The other tests fork it."""
    where = {"COORDINATOR_STORE": empty}
    answer = await interpreter("-c", MAIN, *arguments, cwd=tmp_path, env=where)
    assert answer.code == code
    assert answer == await cli(*arguments, cwd=tmp_path, env=where)


async def test_help_lists_every_public_command() -> None:
    answer = await cli("--help")
    for name in ("runs", "workers", "threads", "reconcile", "explain", "db", "serve", "dev", "demo"):
        assert f"\n  {name} " in answer.out


async def test_the_store_of_a_server_in_this_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `coordinator serve` keeps its runs, unless there is a runs.db here, or a store is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COORDINATOR_STORE", raising=False)
    (tmp_path / ".coordinator").mkdir()
    await cli("db", "migrate", "--store", "sqlite:///.coordinator/runs.db")
    assert (await cli("db", "check", "--json")).document["check"]["store"] == "sqlite:///.coordinator/runs.db"
    await cli("db", "migrate", "--store", "sqlite:///runs.db")
    assert (await cli("db", "check", "--json")).document["check"]["store"] == "sqlite:///runs.db"


async def imported_by(*arguments: str) -> set[str]:
    answer = await interpreter("-X", "importtime", *arguments)
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in answer.err.splitlines()}


async def test_help_imports_nothing_heavy() -> None:
    """Beyond what the interpreter brings by itself, which is much while coverage is measured."""
    imported = await imported_by("-c", MAIN, "--help") - await imported_by("-c", "pass")
    assert "typer" in imported
    assert not imported & {"rich", "pydantic", "redis", "aiosqlite", "stores", "asyncio", "sqlite3"}


async def test_the_package_itself_is_lazy_and_complete() -> None:
    code = (
        "import sys, coordinator; assert 'pydantic' not in sys.modules;"
        " assert set(coordinator.__all__) <= set(dir(coordinator));"
        " from coordinator import *; assert RunManager is coordinator.RunManager;"
        " assert not [name for name in coordinator.__all__ if getattr(coordinator, name) is None];"
        " assert not hasattr(coordinator, 'nonsense')"
    )
    answer = await interpreter("-c", code)
    assert (answer.code, answer.err) == (0, "")


@pytest.mark.parametrize("missing", ["typer", "rich"])
async def test_without_its_extra_it_says_what_to_install(missing: str) -> None:
    answer = await interpreter("-c", f"import sys; sys.modules[{missing!r}] = None; {MAIN}", "runs", "list")
    assert answer.code == USAGE
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert "pip install 'run-coordinator[cli]'" in answer.err


async def test_version() -> None:
    answer = await cli("--version")
    assert answer.code == DONE
    assert answer.out.startswith("coordinator ")


async def test_completion() -> None:
    shown = await cli("--show-completion", env={"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"})
    assert shown.code in (DONE, USAGE)  # which shells are known depends on where the tests run
    words = {"_COORDINATOR_COMPLETE": "complete_bash", "COMP_WORDS": "coordinator run", "COMP_CWORD": "1"}
    answer = await cli(env=words)
    assert answer.out.split() == ["runs"]
