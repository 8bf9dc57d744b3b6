"""Wrong usage, and stores that are not there or not ours."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from coordinator import InvalidArgument, open_coordinator
from tests.support.command_line import (
    FAILED,
    UNREACHABLE,
    USAGE,
    cli,
    files_in,
)


@pytest.mark.parametrize(
    "command",
    [
        ("runs", "list"),
        ("runs", "show", "r"),
        ("runs", "cancel", "r"),
        ("workers", "list"),
        ("threads", "show", "t"),
        ("explain", "r"),
        ("reconcile",),
        ("db", "check"),
    ],
    ids=" ".join,
)
async def test_missing_store_is_unreachable_and_not_created(tmp_path: Path, command: tuple[str, ...]) -> None:
    answer = await cli(*command, cwd=tmp_path)
    assert (answer.code, answer.out) == (UNREACHABLE, "")
    assert answer.err.count("\n") == 1
    assert "coordinator db migrate" in answer.err
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nonsense",),
        ("runs", "lst"),
        ("runs", "show"),
        ("runs", "list", "--limit", "0"),
        ("runs", "list", "--status", "sleeping"),
        ("runs", "list", "--store", "ftp://x"),
        ("runs", "list", "--store", "sqlite://x.db"),
        ("runs", "list", "--store", "memory://"),
        ("runs", "list", "--namespace", "a b"),
        ("runs", "list", "--redis", "http://x"),
        ("runs", "show", "x" * 300),
        ("runs", "show", "a\x1bb"),
        ("runs", "cancel", "r", "--action", "stop"),
        ("webhooks", "list", "--state", "sent"),
        ("webhooks", "retry"),
        ("webhooks", "retry", "r", "--all"),
        ("crons", "list", "--thread", ""),
        ("crons", "delete"),
        ("reconcile", "--before", "yesterday"),
    ],
    ids=lambda arguments: " ".join(arguments)[:40].encode("unicode_escape").decode(),
)
async def test_usage(empty: str, arguments: tuple[str, ...]) -> None:
    answer = await cli(*arguments, env={"COORDINATOR_STORE": empty})
    assert (answer.code, answer.out) == (USAGE, "")
    assert answer.err.startswith("coordinator: ")
    assert answer.err.count("\n") == 1
    as_json = await cli(*arguments, "--json", env={"COORDINATOR_STORE": empty})
    assert as_json.code == USAGE
    assert set(as_json.error) >= {"type", "message", "hint", "exit_code"}
    assert as_json.error["exit_code"] == USAGE


async def test_invalid_setting_is_named(empty: str) -> None:
    answer = await cli("runs", "list", "--store", empty, env={"COORDINATOR_TICK": "soon"})
    assert answer.code == USAGE
    assert answer.err.rstrip().endswith("It comes from COORDINATOR_TICK.")


@pytest.mark.parametrize(
    ("variable", "default"),
    [
        ("COORDINATOR_STORE", "sqlite:///runs.db"),
        ("COORDINATOR_NAMESPACE", "rc"),
        ("COORDINATOR_LEASE_TTL", "15.0"),
        ("COORDINATOR_RUN_TIMEOUT", "none"),
        ("COORDINATOR_EVENT_LOG", "auto"),
    ],
)
async def test_empty_variable_is_named_with_the_default_that_unsetting_it_gives(
    tmp_path: Path, variable: str, default: str
) -> None:
    assert (await cli("db", "migrate", "--store", "sqlite:///runs.db", cwd=tmp_path)).code == 0
    answer = await cli("runs", "list", cwd=tmp_path, env={variable: ""})
    expected = f"coordinator: {variable} is empty. Set it, or unset it: the default is {default}.\n"
    assert (answer.code, answer.out, answer.err) == (USAGE, "", expected)


async def test_empty_store_is_refused_by_option_and_by_open_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await cli("runs", "list", "--store", "", cwd=tmp_path)
    assert (answer.code, answer.err) == (USAGE, "coordinator: --store is empty. Give a URL, or omit it.\n")
    monkeypatch.setenv("COORDINATOR_STORE", "")
    with pytest.raises(InvalidArgument, match="set COORDINATOR_STORE, or unset it"):
        async with open_coordinator():
            pass
    async with open_coordinator("memory://"):
        pass


async def test_empty_variable_of_an_optional_url_counts_as_unset(empty: str) -> None:
    answer = await cli("runs", "list", "--store", empty, env={"COORDINATOR_REDIS": ""})
    assert (answer.code, answer.err) == (0, "")


async def test_invalid_option_is_named(empty: str) -> None:
    answer = await cli("runs", "list", "--store", empty, "--namespace", "n" * 1000)
    assert answer.code == USAGE
    assert answer.err.rstrip().endswith("It comes from --namespace, or from COORDINATOR_NAMESPACE.")


@pytest.mark.parametrize("command", [("runs", "list"), ("db", "check"), ("db", "migrate")], ids=" ".join)
async def test_foreign_file_is_refused_and_unchanged(tmp_path: Path, command: tuple[str, ...]) -> None:
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as cx:
        cx.execute("CREATE TABLE theirs (x)")
    cx.close()
    before = path.read_bytes()
    answer = await cli(*command, "--store", f"sqlite:///{path}", "--json")
    assert (answer.code, answer.error["type"]) == (UNREACHABLE, "StoreRefused")
    assert path.read_bytes() == before


async def test_reading_does_not_turn_an_empty_file_into_a_store(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    answer = await cli("runs", "list", "--store", f"sqlite:///{path}")
    assert answer.code == UNREACHABLE
    assert "coordinator db migrate" in answer.err
    assert path.read_bytes() == b""
    check = await cli("db", "check", "--store", f"sqlite:///{path}", "--json")
    assert (check.code, check.document["check"]["ok"]) == (FAILED, False)


async def test_rule_between_settings_names_them(empty: str) -> None:
    answer = await cli("runs", "list", "--store", empty, env={"COORDINATOR_LEASE_TTL": "3"})
    assert answer.code == USAGE
    assert "lease_ttl - lease_margin must be greater than renew" in answer.err
    assert "COORDINATOR_LEASE_TTL, COORDINATOR_LEASE_MARGIN, COORDINATOR_RENEW" in answer.err
    assert "Value error" not in answer.err


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        (("--store", "sqlite:///x.db", "runs", "list"), "coordinator runs list --store"),
        (("runs", "--store=sqlite:///x.db", "list"), "coordinator runs list --store"),
        (("webhooks", "--user", "u", "stop"), "coordinator webhooks stop --user"),
        (("--json",), "coordinator runs list --json"),
    ],
    ids=["of a group of groups", "with its value", "of a group", "without a command"],
)
async def test_option_before_its_command_is_refused_with_its_place(
    arguments: tuple[str, ...], right: str
) -> None:
    answer = await cli(*arguments)
    assert answer.code == USAGE
    message = answer.error["message"] if "--json" in arguments else answer.err
    assert f"It stands behind the command: {right}" in message


async def test_unknown_option_before_a_command_is_refused_without_a_place() -> None:
    answer = await cli("--stores", "x", "runs", "list")
    assert (answer.code, "stands behind" in answer.err) == (USAGE, False)
    assert "No such option: --stores" in answer.err


async def test_unknown_command_of_each_group_is_refused_with_a_similar_one() -> None:
    for group in ("runs", "webhooks", "crons", "db"):
        command = "check" if group == "db" else "list"
        answer = await cli(group, command[:-1])
        assert (answer.code, f"Did you mean {command!r}?" in answer.err) == (USAGE, True), group
