"""Lists for people: what a narrow terminal shows, filters, pages."""

from __future__ import annotations

import re
from typing import Any

import pytest

from coordinator.cli.columns import Cell, Columns
from tests.support.command_line import DONE, FAILED, USAGE, Busy, cli, on_a_terminal

_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def plain(shown: str) -> list[str]:
    return _STYLE.sub("", shown).replace("\r\n", "\n").splitlines()


async def test_runs_on_a_terminal_of_80_columns(busy: Busy) -> None:
    async def broken(ctx: Any) -> None:
        raise ValueError("the model refused, and explained the reasons at great length")

    failed = await busy.manager.create_or_reject("t2", "an-assistant-with-a-long-name", user_id="u")
    busy.manager.launch(failed, broken)
    with pytest.raises(Exception, match="the model refused"):
        await busy.manager.wait(failed.run_id, timeout=20)
    answer = await on_a_terminal("runs", "list", env={"COORDINATOR_STORE": busy.url})
    assert answer.code == DONE, answer.out
    heading, rule, *rows = plain(answer.out)
    assert heading.split() == ["RUN", "STATUS", "ASSISTANT", "AGE", "ERROR"]
    assert set(rule) == {"─"}
    assert len(rows) == 5
    assert all(len(line) <= 80 for line in (heading, rule, *rows))
    assert rows[0].startswith(failed.run_id)
    assert "error" in rows[0]
    assert "ValueErro" in rows[0]
    assert rows[0].endswith("…")
    assert all(run.run_id in answer.out for run in (busy.done, busy.running, *busy.waiting))


async def test_threads_on_a_terminal_of_80_columns(busy: Busy) -> None:
    made = await busy.manager.threads.create(metadata={"team": "x" * 50})
    answer = await on_a_terminal("threads", "list", env={"COORDINATOR_STORE": busy.url})
    heading, *rest = plain(answer.out)
    assert heading.split()[:4] == ["THREAD", "STATUS", "ASSISTANT", "AGE"]
    assert heading.split()[-1] == "ERROR"
    assert made.thread_id in answer.out
    assert all(len(line) <= 80 for line in (heading, *rest))


async def test_wide_shows_all_columns(busy: Busy) -> None:
    answer = await on_a_terminal("runs", "list", "--wide", env={"COORDINATOR_STORE": busy.url})
    assert {"THREAD", "PLACE", "OWNER", "STRATEGY", "USER"} <= set(plain(answer.out)[0].split())


@pytest.mark.parametrize("room", [20, 40, 60, 79, 80, 100, 200])
def test_only_marked_columns_are_truncated(room: int) -> None:
    names = ("RUN", "WHY", "ERROR", "THREAD")
    rows = [[Cell("r" * 36), Cell("one two three " * 5), Cell("é世界" * 20), Cell("t" * 36)]]
    columns = Columns(names, rows, room=room, spare=("THREAD",))
    lines = [[cell.text for cell, _ in line] for line in columns.lines()]
    assert lines[0][0] == "r" * 36
    assert ("THREAD" in columns.shown) == (room >= 100)
    assert columns.width <= max(room, 36 + 2 * 12)
    words = " ".join(line[1] for line in lines).split()
    assert words == ["one", "two", "three"] * 5
    assert lines[0][2].endswith("…") or room == 200


async def test_pages_and_filters_of_runs(busy: Busy) -> None:
    async def listed(*args: str) -> list[str]:
        answer = await busy.cli("runs", "list", "--json", *args)
        assert answer.code == DONE, answer.err
        return [run["run_id"] for run in answer.document["runs"]]

    every = [busy.waiting[1].run_id, busy.waiting[0].run_id, busy.running.run_id, busy.done.run_id]
    first = await busy.cli("runs", "list", "--limit", "3", "--json")
    assert [run["run_id"] for run in first.document["runs"]] == every[:3]
    assert first.document["before"] == every[2]
    rest = await busy.cli("runs", "list", "--limit", "3", "--before", every[2], "--json")
    assert ([run["run_id"] for run in rest.document["runs"]], rest.document["before"]) == (every[3:], None)
    people = await busy.cli("runs", "list", "--limit", "3")
    assert f"there are more: --before {every[2]}" in people.err
    assert (await busy.cli("runs", "list")).err == ""
    assert await listed("--assistant", "agent") == every[2:]
    assert await listed("--user", "u") == []
    assert await listed("--since", "1h") == every
    assert await listed("--since", "2000-01-01") == every
    assert await listed("--older-than", "1h") == []
    assert await listed("--silent-for", "0") == [busy.running.run_id]
    assert await listed("--silent-for", "1h") == []
    assert len(await listed("--metadata", "m=nonsense")) == 0


@pytest.mark.parametrize(
    "args", [("--since", "yesterday"), ("--older-than", "1y"), ("--silent-for", "x"), ("--metadata", "m")]
)
async def test_invalid_filter_is_named(busy: Busy, args: tuple[str, str]) -> None:
    answer = await busy.cli("runs", "list", *args)
    assert (answer.code, args[0] in answer.err) == (USAGE, True)


@pytest.mark.parametrize("since", ["2000-99-01", "2000-01-01T25:00", "yesterday"])
async def test_invalid_time_is_reported_with_accepted_formats(busy: Busy, since: str) -> None:
    answer = await busy.cli("runs", "list", "--since", since)
    assert answer.code == USAGE
    assert "time: write" in answer.err
    assert "2026-01-31T12:00:00Z" in answer.err


async def test_threads_in_pages(busy: Busy) -> None:
    for name in ("t2", "t3"):
        await busy.manager.threads.create(name)
    first = await busy.cli("threads", "list", "--limit", "2", "--json")
    assert first.document["offset"] == 2
    rest = await busy.cli("threads", "list", "--limit", "2", "--offset", "2", "--json")
    assert (len(rest.document["threads"]), rest.document["offset"]) == (1, None)
    people = await busy.cli("threads", "list", "--limit", "2")
    assert "there are more: --offset 2" in people.err


# ---- ids -----------------------------------------------------------------------------------------------


async def test_unique_prefix_selects_id(busy: Busy) -> None:
    """As far as no other id begins so."""
    thread = await busy.manager.threads.create("another-thread")
    ids = [run.run_id for run in (busy.done, busy.running, *busy.waiting)]
    run = busy.running.run_id
    length = next(n for n in range(1, 37) if sum(one.startswith(run[:n]) for one in ids) == 1)
    for command in (("runs", "show"), ("explain",), ("runs", "follow", "--after", "$")):
        if command[1:2] == ("follow",):
            await busy.cli("runs", "cancel", run[:length], "--wait", "5")
        answer = await busy.cli(*command, run[:length], "--json")
        assert answer.code == DONE, answer.err
        assert run in answer.out
    shown = await busy.cli("threads", "show", "ano", "--json")
    assert shown.document["thread"]["thread_id"] == thread.thread_id
    listed = await busy.cli("runs", "list", "--thread", "t", "--json")
    assert {one["thread_id"] for one in listed.document["runs"]} == {"t1"}


async def test_ambiguous_prefix_lists_candidates(busy: Busy) -> None:
    for name in ("pair-1", "pair-2", "pair"):
        await busy.manager.threads.create(name)
    answer = await busy.cli("threads", "show", "pai", "--json")
    assert (answer.code, answer.error["type"]) == (FAILED, "AmbiguousId")
    assert all(name in answer.error["message"] for name in ("'pai'", "pair-1", "pair-2"))
    whole = await busy.cli("threads", "show", "pair", "--json")
    assert whole.document["thread"]["thread_id"] == "pair", "an id is itself before it is a beginning"
    missing = await busy.cli("threads", "show", "pairs")
    assert (missing.code, "'pairs'" in missing.err) == (FAILED, True)


# ---- help and suggestions ------------------------------------------------------------------------------


async def test_help_lists_commands_in_order_with_full_summaries() -> None:
    shown = (await cli("--help", env={"COLUMNS": "80"})).out
    commands = shown.partition("Commands:")[2].splitlines()
    names = [line.split()[0] for line in commands if line.startswith("  ") and line.strip()]
    assert names[:3] == ["serve", "dev", "runs"]
    assert names.index("reconcile") > names.index("threads")
    assert not any(line.endswith(("…", "...")) for line in commands)


async def test_every_option_has_a_metavar() -> None:
    for command in (
        *(("runs", verb) for verb in ("list", "show", "follow", "cancel")),
        *(("threads", verb) for verb in ("list", "show")),
        *(("workers", verb) for verb in ("list", "drain")),
        *(("webhooks", verb) for verb in ("list", "retry")),
        *(("crons", verb) for verb in ("list", "delete")),
        *(("keys", verb) for verb in ("create", "list", "revoke")),
        *(("db", verb) for verb in ("migrate", "check", "copy")),
        ("reconcile",), ("prune",), ("explain",), ("serve",), ("dev",), ("demo",),
    ):  # fmt: skip
        shown = (await cli(*command, "--help", env={"COLUMNS": "200"})).out
        assert not re.search(r"--[a-z-]+ +(<|TEXT RANGE|INTEGER|FLOAT|PATH\b.*PATH)", shown), command


@pytest.mark.parametrize(
    ("given", "meant"),
    [("run", "runs"), ("thread", "threads"), ("worker", "workers"), ("explian", "explain")],
)
async def test_unknown_command_suggests_similar_one(given: str, meant: str) -> None:
    answer = await cli(given, "list")
    assert answer.code == USAGE
    assert f"Did you mean '{meant}'?" in answer.err


async def test_unknown_command_without_similar_one_has_no_suggestion() -> None:
    assert "Did you mean" not in (await cli("xyzzy")).err


async def test_missing_store_hints_at_store_option_first() -> None:
    answer = await cli("runs", "list", "--store", "sqlite:///nowhere.db")
    assert answer.err.index("--store") < answer.err.index("coordinator db migrate")
