"""The command line's texts about itself, and what it imports to print them."""

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
    ("workers", "drain"),
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

OF_A_SERVER = "sqlite:///.coordinator/runs.db"


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
async def test_help_shows_exit_codes(command: tuple[str, ...]) -> None:
    answer = await cli(*command, "--help")
    assert answer.code == DONE
    assert "0 done, 1 failed, 2 usage, 3 store or Redis unreachable" in " ".join(answer.out.split())
    assert answer.err == ""


async def test_removed_store_of_a_server_is_not_replaced_by_another_default(tmp_path: Path) -> None:
    """The gate file of the server is left, and the folder has no other store, or another one."""
    folder = tmp_path / ".coordinator"
    folder.mkdir(mode=0o700)
    assert (await cli("db", "migrate", "--store", OF_A_SERVER, cwd=tmp_path)).code == DONE
    (folder / "runs.db-gate").touch()
    listed = await cli("runs", "list", cwd=tmp_path)
    assert (listed.code, "store sqlite:///" in listed.err, ".coordinator/runs.db" in listed.err) == (
        DONE, True, True,
    )  # fmt: skip
    assert (await cli("runs", "list", "--json", cwd=tmp_path)).err == ""
    (folder / "runs.db").rename(tmp_path / "moved.db")
    missing = await cli("runs", "list", cwd=tmp_path)
    assert (missing.code, ".coordinator/runs.db" in missing.err) == (UNREACHABLE, True)
    assert (await cli("db", "migrate", "--store", "sqlite:///runs.db", cwd=tmp_path)).code == DONE
    assert (await cli("runs", "list", cwd=tmp_path)).code == USAGE


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--version",), DONE),
        (("runs", "show", "unknown"), FAILED),
        (("runs", "lst"), USAGE),
        (("runs", "list", "--store", "sqlite:///nowhere.db"), UNREACHABLE),
    ],
    ids=["done", "failed", "usage", "unreachable"],
)
async def test_interpreter_and_forked_process_behave_alike(
    empty: str, tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    """The other tests fork the command."""
    where = {"COORDINATOR_STORE": empty}
    answer = await interpreter("-c", MAIN, *arguments, cwd=tmp_path, env=where)
    assert answer.code == code
    assert answer == await cli(*arguments, cwd=tmp_path, env=where)


async def test_help_lists_every_public_command() -> None:
    answer = await cli("--help")
    for name in ("runs", "workers", "threads", "reconcile", "explain", "db", "serve", "dev", "demo"):
        assert f"\n  {name} " in answer.out


@pytest.fixture
async def folder_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, where `coordinator serve` has kept runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COORDINATOR_STORE", raising=False)
    (tmp_path / ".coordinator").mkdir()
    await cli("db", "migrate", "--store", OF_A_SERVER)
    return tmp_path


async def test_store_of_a_server_in_this_folder_is_the_default(folder_of_a_server: Path) -> None:
    assert (await cli("db", "check", "--json")).document["check"]["store"] == OF_A_SERVER


@pytest.mark.parametrize(
    "command",
    [("runs", "cancel", "--user", "x", "--yes"), ("runs", "list"), ("db", "check")],
    ids=" ".join,
)
async def test_two_stores_in_a_folder_require_the_store_option(
    folder_of_a_server: Path, command: tuple[str, ...]
) -> None:
    await cli("db", "migrate", "--store", "sqlite:///runs.db")
    answer = await cli(*command)
    assert (answer.code, answer.out) == (USAGE, "")
    assert "--store sqlite:///runs.db" in answer.err
    assert f"--store {OF_A_SERVER}" in answer.err
    for store in ("sqlite:///runs.db", OF_A_SERVER):
        assert (await cli(*command, "--store", store)).code == DONE
        assert (await cli(*command, env={"COORDINATOR_STORE": store})).code == DONE


async def test_copy_ignores_the_default_store(folder_of_a_server: Path) -> None:
    (folder_of_a_server / "runs.db").touch()
    answer = await cli("db", "copy", "--from", OF_A_SERVER, "--to", "sqlite:///other.db")
    assert "two stores" not in answer.err
    assert "postgresql" in answer.err


async def test_key_is_revoked_in_a_folder_with_two_stores(folder_of_a_server: Path) -> None:
    """The pending work is reported as unknown, with the option that selects a store."""
    (folder_of_a_server / "runs.db").touch()
    made = await cli("keys", "create", "--file", "keys.json", "--user", "x", "--json")
    answer = await cli("keys", "revoke", made.document["key"]["id"], "--file", "keys.json")
    assert answer.code == DONE
    assert "is revoked" in answer.out
    assert "are unknown" in answer.err
    assert f"--store {OF_A_SERVER}" in answer.err
    assert "no crons" not in answer.out


async def imported_by(*arguments: str) -> set[str]:
    answer = await interpreter("-X", "importtime", *arguments)
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in answer.err.splitlines()}


async def test_help_imports_no_large_packages() -> None:
    """Beyond what the interpreter brings by itself, which is much while coverage is measured."""
    imported = await imported_by("-c", MAIN, "--help") - await imported_by("-c", "pass")
    assert "typer" in imported
    assert not imported & {"rich", "pydantic", "redis", "stores", "asyncio", "sqlite3"}


async def test_package_is_lazy_and_complete() -> None:
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
async def test_missing_extra_is_reported_with_install_command(missing: str) -> None:
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
