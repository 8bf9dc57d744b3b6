"""The command line as its users meet it: exit codes, stdout, stderr."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from coordinator import RunContext, RunManager, RunRecord, open_coordinator
from coordinator.cli.database import problems_of, warnings_of
from coordinator.cli.text import document, pretty, safe, short, size, span
from coordinator.testing.valkey import ValkeyServer, free_port
from stores.crons import CronRow
from stores.inspection import Inspection
from stores.rows import WebhookReport
from tests.support.waiting import wait_until

DONE, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3
MAIN = "import sys; from coordinator.cli import main; sys.exit(main())"
EVIL = "\x1b[31mred\x1b[0m [bold]b[/bold] :smile: \u202eover\r\nnext\x9b1m"
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
RUN_KEYS = {
    "run_id", "thread_id", "assistant_id", "user_id", "status", "phase", "holds_thread", "position",
    "owner_epoch", "home_epoch", "fence", "multitask_strategy", "portable", "paused", "cancel_action",
    "cancel_cause",
    "cancel_reason", "cancel_actor", "rollback_state", "error", "metadata", "model_name", "created_at",
    "not_before", "started_at", "ended_at", "settled_at", "updated_at",
}  # fmt: skip


class Answer(NamedTuple):
    code: int | None
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.err)["error"]


async def python(*args: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> Answer:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COORDINATOR_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *args,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
        env=clean | (env or {}),
    )
    out, err = await asyncio.wait_for(process.communicate(), 50)
    return Answer(process.returncode, out.decode(), err.decode())


async def cli(*args: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> Answer:
    return await python("-c", MAIN, *args, cwd=cwd, env=env)


async def quick(ctx: RunContext) -> None:
    await ctx.save({"said": [EVIL], "long": list(range(100))})


async def slow(ctx: RunContext) -> None:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(0.05)
        raise


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


class Busy(NamedTuple):
    """A live worker: one run done, one running and two waiting behind it on `thread`."""

    url: str
    path: Path
    manager: RunManager
    thread: str
    done: RunRecord
    running: RunRecord
    waiting: tuple[RunRecord, RunRecord]

    async def cli(self, *args: str) -> Answer:
        return await cli(*args, env={"COORDINATOR_STORE": self.url})

    async def workers(self) -> int:
        return len(await self.manager.workers(alive_only=False))


@asynccontextmanager
async def busy_worker(path: Path, **settings: Any) -> AsyncGenerator[Busy]:
    url = f"sqlite:///{path}"
    async with open_coordinator(url, grace=0, **settings) as manager:
        done = await manager.create_or_reject("t1", "agent", kwargs={"q": EVIL}, metadata={"m": EVIL})
        manager.launch(done, quick)
        await manager.wait(done.run_id, timeout=5)
        running = await manager.create_or_reject("t1", "agent", kwargs={"secret": 1})
        manager.launch(running, slow)
        waiting = [await manager.create_or_reject("t1", multitask_strategy="enqueue") for _ in range(2)]
        for run in waiting:
            manager.launch(run, quick)
        await wait_until(lambda: running.status == "running", description="the run runs")
        yield Busy(url, path, manager, "t1", done, running, (waiting[0], waiting[1]))


@pytest.fixture
async def busy(tmp_path: Path) -> AsyncGenerator[Busy]:
    async with busy_worker(tmp_path / "runs.db") as found:
        yield found


@pytest.fixture
async def empty(tmp_path: Path) -> str:
    """The URL of a store in which nothing has happened."""
    url = f"sqlite:///{tmp_path / 'empty.db'}"
    assert (await cli("db", "migrate", "--store", url)).code == DONE
    return url


# ---- help, completion, installation --------------------------------------------------------------------


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
async def test_help_tells_the_exit_codes(command: tuple[str, ...]) -> None:
    answer = await cli(*command, "--help")
    assert answer.code == DONE
    assert "0 done, 1 failed, 2 usage, 3 store or Redis unreachable" in " ".join(answer.out.split())
    assert answer.err == ""


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
    answer = await python("-X", "importtime", *arguments)
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
    answer = await python("-c", code)
    assert (answer.code, answer.err) == (0, "")


@pytest.mark.parametrize("missing", ["typer", "rich"])
async def test_without_its_extra_it_says_what_to_install(missing: str) -> None:
    answer = await python("-c", f"import sys; sys.modules[{missing!r}] = None; {MAIN}", "runs", "list")
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


# ---- what is client-sent is harmless -------------------------------------------------------------------


def test_escaping() -> None:
    assert safe("plain ümläut") == "plain ümläut"
    assert safe(EVIL).isprintable()
    assert safe("\x1b[31m") == "\\x1b[31m"
    assert "\x7f" not in document({"a": "\x7f\x1b"})
    assert json.loads(document({"a": "\x7f\x1b"})) == {"a": "\x7f\x1b"}
    assert all(line.isprintable() for line in pretty({"a": "\x9b\x7f"}))
    assert "more lines" in pretty(list(range(100)), 10)[-1]
    assert short("x" * 50, 10) == "x" * 9 + "…"


def test_lengths_and_sizes() -> None:
    said = [span(value) for value in (0.0015, 0.25, 0.9999, 4.2, 59.99, 65, 3600, 90_000, -2)]
    assert said == ["1.5 ms", "250 ms", "1 s", "4.2 s", "60.0 s", "1 min 5 s", "1 h", "1 d 1 h", "-2.0 s"]
    assert [size(value) for value in (None, 12, 2048, 5 << 20)] == ["-", "12 B", "2.0 KiB", "5.0 MiB"]


async def test_nothing_that_clients_sent_reaches_the_terminal_raw(busy: Busy) -> None:
    await busy.cli("runs", "cancel", busy.waiting[0].run_id, "--reason", EVIL, "--actor", EVIL)
    for command in (
        ("runs", "list"),
        ("runs", "show", busy.done.run_id),
        ("runs", "show", busy.waiting[0].run_id),
        ("explain", busy.waiting[0].run_id),
        ("threads", "show", busy.thread),
    ):
        for options in ((), ("--json",)):
            answer = await busy.cli(*command, *options)
            assert answer.code == DONE, answer.err
            assert not set(answer.out) & {"\x1b", "\x9b", "\r", "\u202e", "\x7f"}
    shown = await busy.cli("runs", "show", busy.done.run_id)
    assert "[bold]b[/bold] :smile:" in shown.out
    assert "\\u202eover" in shown.out


# ---- runs ----------------------------------------------------------------------------------------------


async def test_runs_list(busy: Busy) -> None:
    answer = await busy.cli("runs", "list", "--json")
    assert answer.code == DONE
    runs = answer.document["runs"]
    assert all(set(run) == RUN_KEYS for run in runs)
    assert [run["run_id"] for run in runs] == [
        busy.waiting[1].run_id,
        busy.waiting[0].run_id,
        busy.running.run_id,
        busy.done.run_id,
    ]
    assert [run["phase"] for run in runs] == ["waiting", "waiting", "running", "done"]
    assert [run["position"] for run in runs] == [2, 1, None, None]
    assert runs[2]["owner_epoch"] == busy.manager.epoch
    assert "secret" not in answer.out  # kwargs are not for lists


@pytest.mark.parametrize(
    ("options", "phases"),
    [
        (["--in-flight"], ["waiting", "waiting", "running"]),
        (["--status", "running"], ["running"]),
        (["--status", "running", "--status", "success"], ["running", "done"]),
        (["--thread", "t1", "--limit", "1"], ["waiting"]),
        (["--thread", "elsewhere"], []),
    ],
    ids=" ".join,
)
async def test_runs_list_filters(busy: Busy, options: list[str], phases: list[str]) -> None:
    answer = await busy.cli("runs", "list", "--json", *options)
    assert [run["phase"] for run in answer.document["runs"]] == phases


async def test_runs_list_for_people(busy: Busy, empty: str) -> None:
    answer = await busy.cli("runs", "list")
    assert answer.out.splitlines()[0].split()[:3] == ["RUN", "THREAD", "PHASE"]
    assert len(answer.out.splitlines()) == 5
    assert "no such runs" in (await cli("runs", "list", "--store", empty)).out


async def test_runs_show(busy: Busy) -> None:
    run = (await busy.cli("runs", "show", busy.running.run_id, "--json")).document["run"]
    assert run["kwargs"] == {"secret": 1}
    assert set(run) > RUN_KEYS
    assert "running" in (await busy.cli("runs", "show", busy.running.run_id)).out


async def test_cancel_commits_and_waits_without_being_a_worker(busy: Busy) -> None:
    before = await busy.workers()
    answer = await busy.cli(
        "runs", "cancel", busy.running.run_id, "--reason", "why", "--actor", "me", "--wait", "5", "--json"
    )
    assert answer.code == DONE, answer.err
    cancel = answer.document["cancel"]
    assert (cancel["settled"], cancel["already"], cancel["redis"]) == (True, False, None)
    assert (cancel["reason"], cancel["actor"], cancel["cause"]) == ("why", "me", "admin")
    assert all(cancel[name] for name in ("requested_at", "delivered_at", "stopped_at", "settled_at"))
    assert await busy.workers() == before
    assert busy.running.status == "interrupted"
    again = await busy.cli("runs", "cancel", busy.running.run_id, "--json")
    assert (again.code, again.document["cancel"]["already"]) == (DONE, True)


async def test_cancel_with_rollback(busy: Busy) -> None:
    answer = await busy.cli("runs", "cancel", busy.running.run_id, "--action", "rollback", "--wait", "5")
    assert answer.code == DONE
    assert "rollback" in answer.out
    run = (await busy.cli("runs", "show", busy.running.run_id, "--json")).document["run"]
    assert (run["cancel_action"], run["status"]) == ("rollback", "interrupted")


async def test_cancel_refused_and_not_found(busy: Busy) -> None:
    refused = await busy.cli("runs", "cancel", busy.done.run_id, "--json")
    assert (refused.code, refused.out) == (FAILED, "")
    assert refused.error["type"] == "NotCancellable"
    assert refused.error["run_id"] == busy.done.run_id
    missing = await busy.cli("runs", "cancel", "nobody")
    assert missing.code == FAILED
    assert missing.err.count("\n") == 1
    assert "'nobody'" in missing.err
    assert "coordinator runs list" in missing.err


async def test_cancel_that_is_not_over_in_time_says_that_it_stands(tmp_path: Path) -> None:
    async with busy_worker(tmp_path / "runs.db", tick=30, short_tick=30) as busy:
        answer = await busy.cli("runs", "cancel", busy.running.run_id, "--wait", "0.2", "--json")
        assert (answer.code, answer.error["type"]) == (FAILED, "NotSettled")
        run = (await busy.cli("runs", "show", busy.running.run_id, "--json")).document["run"]
        assert run["phase"] == "cancelling"


async def test_cancel_while_redis_is_away_is_committed(busy: Busy) -> None:
    answer = await busy.cli(
        "runs", "cancel", busy.running.run_id, "--wait", "5", "--redis", f"redis://127.0.0.1:{free_port()}"
    )
    assert answer.code == DONE
    assert "Redis does not answer" in answer.err
    assert busy.running.status == "interrupted"


async def test_cancel_through_redis_does_not_wait_for_a_tick(
    tmp_path: Path, shared_valkey: ValkeyServer, namespace: str
) -> None:
    settings = {"redis": shared_valkey.url, "namespace": namespace, "tick": 30, "short_tick": 30}
    async with busy_worker(tmp_path / "runs.db", **settings) as busy:
        await wait_until(lambda: busy.manager.connectivity == "connected", description="connected")
        where = ("--redis", shared_valkey.url, "--namespace", namespace)
        answer = await busy.cli("runs", "cancel", busy.running.run_id, "--wait", "5", "--json", *where)
        assert (answer.code, answer.document["cancel"]["redis"]) == (DONE, "ok"), answer.err


# ---- following -----------------------------------------------------------------------------------------


async def test_follow_a_run_through_redis(
    tmp_path: Path, shared_valkey: ValkeyServer, namespace: str
) -> None:
    settings = {"redis": shared_valkey.url, "namespace": namespace}
    async with busy_worker(tmp_path / "runs.db", **settings) as busy:
        where = ("--redis", shared_valkey.url, "--namespace", namespace)
        answer = await busy.cli("runs", "follow", busy.done.run_id, "--json", *where)
        event, end = (json.loads(line) for line in answer.out.splitlines())
        assert event["event"]["mode"] == "values"
        assert event["event"]["data"] == {"said": [EVIL], "long": list(range(100))}
        assert end["end"] | {"last_id": None} == {
            "run_id": busy.done.run_id,
            "status": "success",
            "error": None,
            "cause": None,
            "last_id": None,
            "complete": True,
        }
        rest = await busy.cli("runs", "follow", busy.done.run_id, "--after", event["event"]["id"], *where)
        assert (rest.code, rest.out) == (DONE, "-- success\n")
        people = await busy.cli("runs", "follow", busy.done.run_id, *where)
        assert "\x1b" not in people.out
        assert people.out.splitlines()[0].startswith(event["event"]["id"])


async def test_follow_without_redis_shows_the_end(busy: Busy) -> None:
    answer = await busy.cli("runs", "follow", busy.done.run_id)
    assert (answer.code, answer.out) == (DONE, "-- success (events may be missing)\n")
    assert await busy.workers() == 1


async def test_follow_refuses_what_is_no_id(busy: Busy) -> None:
    answer = await busy.cli("runs", "follow", busy.done.run_id, "--after", "x", "--json")
    assert (answer.code, answer.error["type"]) == (USAGE, "InvalidArgument")


# ---- the rest of what is read --------------------------------------------------------------------------


async def test_threads_list(busy: Busy) -> None:
    await busy.manager.create_thread("t2", metadata={"team": EVIL, "n": 1}, user_id="u", ttl=3600)
    await busy.manager.create_thread("t3", temporary=True)

    async def ids(*args: str) -> list[str]:
        answer = await busy.cli("threads", "list", "--json", *args)
        assert answer.code == DONE, answer.err
        return [thread["thread_id"] for thread in answer.document["threads"]]

    assert await ids("--oldest-first", "--all") == ["t1", "t2", "t3"]
    assert await ids("--status", "busy", "--limit", "1") == ["t1"]
    assert await ids("--metadata", "n=1", "--metadata", f"team={EVIL}") == ["t2"]
    (thread,) = (await busy.cli("threads", "list", "--user", "u", "--json")).document["threads"]
    assert (thread["status"], thread["ttl"], thread["temporary"]) == ("idle", 3600, False)
    assert "values" not in thread
    people = await busy.cli("threads", "list")
    assert "t2" in people.out
    assert "\x1b[31mred" not in people.out
    nobody = await busy.cli("threads", "list", "--user", "v")
    assert (nobody.code, "no such threads" in nobody.out + nobody.err) == (DONE, True)


@pytest.mark.parametrize("args", [("--status", "banana"), ("--metadata", "team"), ("--user", "")])
async def test_threads_list_names_a_bad_filter(busy: Busy, args: tuple[str, str]) -> None:
    answer = await busy.cli("threads", "list", *args)
    assert answer.code == USAGE
    assert args[0] in answer.err


async def test_threads_show(busy: Busy) -> None:
    thread = (await busy.cli("threads", "show", "t1", "--json")).document["thread"]
    assert thread["status"] == "busy"
    assert thread["holder"]["run_id"] == busy.running.run_id
    assert thread["waiting"] == [run.run_id for run in busy.waiting]
    assert thread["values"] == {"said": [EVIL], "long": list(range(100))}
    assert len(thread["runs"]) == 4
    people = (await busy.cli("threads", "show", "t1")).out
    assert busy.running.run_id in people
    assert "more lines; --json shows all" in people
    missing = await busy.cli("threads", "show", "t2", "--json")
    assert (missing.code, missing.error["thread_id"]) == (FAILED, "t2")


async def test_workers_list(busy: Busy) -> None:
    (worker,) = (await busy.cli("workers", "list", "--json")).document["workers"]
    assert (worker["epoch"], worker["state"], worker["holding"]) == (busy.manager.epoch, "live", 1)
    assert (worker["gone"], worker["expired"], worker["pid"]) == (False, False, os.getpid())
    assert "live" in (await busy.cli("workers", "list")).out


async def test_workers_drain(busy: Busy) -> None:
    epoch = busy.manager.epoch
    missing = await busy.cli("workers", "drain", str(epoch + 9), "--json")
    assert (missing.code, missing.error["type"]) == (FAILED, "WorkerNotFound")
    for usage in ((), (str(epoch), "--all"), ("--all", "--grace", "-1"), ("x",)):
        assert (await busy.cli("workers", "drain", *usage)).code == USAGE
    assert not busy.manager.draining
    asked = await busy.cli("workers", "drain", str(epoch), "--grace", "30", "--json")
    assert asked.document["asked"] == [{"epoch": epoch, "already": False}]
    await wait_until(lambda: busy.manager.draining, description="its tick has found out")
    assert (
        f"worker {epoch} drains already" in (await busy.cli("workers", "drain", "--all", "--grace", "0")).out
    )


async def test_explain(busy: Busy) -> None:
    waits = (await busy.cli("explain", busy.waiting[1].run_id, "--json")).document
    assert (waits["run"]["position"], waits["holder"]) == (2, busy.running.run_id)
    await busy.cli("runs", "cancel", busy.running.run_id, "--reason", "why", "--actor", "me", "--wait", "5")
    told = (await busy.cli("explain", busy.running.run_id, "--json")).document
    assert [step["what"] for step in told["timeline"]] == ["admitted", "started", "decided", "settled"]
    decided = told["timeline"][2]
    assert (decided["cause"], decided["actor"], decided["detail"]) == ("admin", "me", "why")
    assert told["receipt"]["settled_at"] is not None
    people = (await busy.cli("explain", busy.running.run_id)).out
    assert "running → interrupted" in people
    assert "admin: why" in people


async def test_reading_registers_no_worker(busy: Busy) -> None:
    before = await busy.workers()
    for command in (("runs", "list"), ("workers", "list"), ("threads", "show", "t1"), ("db", "check")):
        assert (await busy.cli(*command)).code == DONE
    assert await busy.workers() == before


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
async def test_a_missing_store_is_unreachable_and_stays_missing(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    answer = await cli(*command, cwd=tmp_path)
    assert (answer.code, answer.out) == (UNREACHABLE, "")
    assert answer.err.count("\n") == 1
    assert "coordinator db migrate" in answer.err
    assert files_in(tmp_path) == []


# ---- usage and unreachable -----------------------------------------------------------------------------


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
    told = await cli(*arguments, "--json", env={"COORDINATOR_STORE": empty})
    assert told.code == USAGE
    assert set(told.error) >= {"type", "message", "hint", "exit_code"}
    assert told.error["exit_code"] == USAGE


async def test_a_bad_setting_is_named(empty: str) -> None:
    answer = await cli("runs", "list", "--store", empty, env={"COORDINATOR_TICK": "soon"})
    assert answer.code == USAGE
    assert "COORDINATOR_TICK" in answer.err


@pytest.mark.parametrize("command", [("runs", "list"), ("db", "check"), ("db", "migrate")], ids=" ".join)
async def test_a_foreign_file_is_refused_and_untouched(tmp_path: Path, command: tuple[str, ...]) -> None:
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as cx:
        cx.execute("CREATE TABLE theirs (x)")
    cx.close()
    before = path.read_bytes()
    answer = await cli(*command, "--store", f"sqlite:///{path}", "--json")
    assert (answer.code, answer.error["type"]) == (UNREACHABLE, "StoreRefused")
    assert path.read_bytes() == before


async def test_an_empty_file_is_not_made_a_store_by_looking_at_it(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    answer = await cli("runs", "list", "--store", f"sqlite:///{path}")
    assert answer.code == UNREACHABLE
    assert "coordinator db migrate" in answer.err
    assert path.read_bytes() == b""
    check = await cli("db", "check", "--store", f"sqlite:///{path}", "--json")
    assert (check.code, check.document["check"]["ok"]) == (FAILED, False)


# ---- db ------------------------------------------------------------------------------------------------


async def test_migrate_creates_then_has_nothing_to_do(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    first = (await cli("db", "migrate", "--store", url, "--json")).document["migrate"]
    assert first["created"]
    assert first["applied"][0]["number"] == 1
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


def test_what_a_check_finds() -> None:
    sound: dict[str, Any] = {"applied": (), "runs": {}, "in_flight": 0, "waiting": 0, "threads": 0}
    sound |= {"workers_alive": 0, "transitions": 0}
    old = Inspection(version=1, newest=2, faults=("row 3 missing",), workers_expired=2, disk_free=1, **sound)
    assert len(problems_of(old)) == 2
    assert len(warnings_of(old)) == 2


# ---- reconcile -----------------------------------------------------------------------------------------

_VICTIM = """
import asyncio, os, sys
from coordinator import open_coordinator
async def slow(ctx): await asyncio.sleep(60)
async def main():
    async with open_coordinator(sys.argv[1]) as manager:
        run = await manager.create_or_reject("victim")
        manager.launch(run, slow)
        while run.status != "running": await asyncio.sleep(0.01)
        print(run.run_id, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@asynccontextmanager
async def victim(url: str, **environment: str) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str]]:
    """Another process with one run."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _VICTIM, url, stdout=asyncio.subprocess.PIPE, env=os.environ | environment
    )
    assert process.stdout is not None
    try:
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.multiprocess
async def test_reconcile_ends_the_runs_of_a_killed_worker_and_no_other(empty: str) -> None:
    async with victim(empty) as (dead, orphan), victim(f"{empty}") as (_, other):
        assert other == ""  # the thread is taken: it has failed
        dead.kill()
        await dead.wait()
        limited = await cli("reconcile", "--store", empty, "--before", "2020-01-01", "--json")
        assert (limited.code, limited.document["ended"]) == (DONE, []), limited.err
        answer = await cli("reconcile", "--store", empty, "--error", "gone [red]", "--json")
        (run,) = answer.document["ended"]
        assert (run["run_id"], run["status"], run["error"]) == (orphan, "error", "gone [red]")
        again = await cli("reconcile", "--store", empty)
        assert "nothing to end" in again.out


async def test_reconcile_leaves_a_living_worker_alone(busy: Busy) -> None:
    answer = await busy.cli("reconcile", "--json")
    assert answer.document == {"ended": [], "buried": [], "undecided": []}
    assert busy.running.status == "running"
    assert len(await busy.manager.workers()) == 1  # its own has left again


@pytest.mark.slow
@pytest.mark.multiprocess
async def test_reconcile_watches_a_worker_of_which_only_the_lease_is_over(empty: str) -> None:
    short_lease = {
        "COORDINATOR_LEASE_TTL": "2",
        "COORDINATOR_RENEW": "0.5",
        "COORDINATOR_LEASE_MARGIN": "0.5",
    }
    async with victim(empty, **short_lease) as (paused, orphan):
        paused.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2.3)  # its lease has to end by the store's own clock
        at_once = await cli("reconcile", "--store", empty, "--no-wait", "--json")
        assert at_once.document["ended"] == []
        assert [worker["expired"] for worker in at_once.document["undecided"]] == [True]
        answer = await cli("reconcile", "--store", empty, "--json")
        assert [run["run_id"] for run in answer.document["ended"]] == [orphan]
        assert "watching the heartbeat" in answer.err
        paused.send_signal(signal.SIGCONT)


# ---- prune ---------------------------------------------------------------------------------------------


@pytest.fixture
async def old(empty: str) -> str:
    """Three runs that settled 40 days ago, on one thread."""
    with sqlite3.connect(empty.removeprefix("sqlite:///")) as cx:
        cx.execute("INSERT INTO threads (thread_id, created_at, updated_at) VALUES ('t', 1, 1)")
        cx.execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 3)"
            " INSERT INTO runs (run_id, thread_id, status, settled_at, started_at, created_at, created_us,"
            " updated_at) SELECT 'old' || n, 't', 'success', (unixepoch() - 40 * 86400) * 1000000, 1, '',"
            " n, 1 FROM n"
        )
    cx.close()
    return empty


async def test_prune_counts_first_and_removes_what_was_confirmed(old: str) -> None:
    found = {"runs": 2, "transitions": 2, "workers": 0, "webhooks": 0}
    nothing = {"runs": 0, "transitions": 0, "workers": 0, "webhooks": 0}
    looked = await cli("prune", "--older-than", "30d", "--dry-run", "--json", "--store", old)
    assert (looked.code, looked.document) == (DONE, {"dry_run": True, "found": found, "removed": nothing})
    for asked in ((), ("--json",)):
        refused = await cli("prune", "--older-than", "30d", *asked, "--store", old)
        assert (refused.code, refused.out) == (USAGE, "")
        assert "2 runs, 2 transitions, 0 dead workers and 0 webhooks" in refused.err
        assert "--yes" in refused.err
    assert (await cli("prune", "--older-than", "6w", "--yes", "--store", old)).out == "nothing to remove\n"
    done = await cli("prune", "--older-than", "30d", "--yes", "--json", "--store", old)
    assert (done.code, done.document) == (DONE, {"dry_run": False, "found": found, "removed": found})
    left = await cli("runs", "list", "--json", "--store", old)
    assert [run["run_id"] for run in left.document["runs"]] == ["old3"]


@pytest.mark.parametrize("age", ["soon", "-3d", "10s", "1.5h", "99999999999d", ""])
async def test_prune_refuses_an_age_that_is_none(old: str, age: str) -> None:
    refused = await cli("prune", f"--older-than={age}", "--yes", "--json", "--store", old)
    assert (refused.code, refused.error["type"], refused.out) == (USAGE, "InvalidArgument", "")


# ---- webhooks, crons -----------------------------------------------------------------------------------


class Owed(NamedTuple):
    """A worker with three webhooks, of which one is dead and two wait, and two crons."""

    busy: Busy
    dead: str
    waiting: list[str]
    crons: list[str]


def cron_of(
    cron_id: str, *, enabled: bool = True, user_id: str | None = None, thread_id: str | None = None
) -> CronRow:
    return CronRow(
        cron_id=cron_id,
        user_id=user_id,
        assistant_id="agent",
        thread_id=thread_id,
        schedule="* * * * *",
        timezone=None,
        enabled=enabled,
        end_at=None,
        on_run_completed=None,
        payload={"assistant_id": "agent"},
        metadata={},
        next_at=None,
    )


@pytest.fixture
async def owed(busy: Busy) -> Owed:
    runs = [
        await busy.manager.create_or_reject(
            f"w{number}", webhook=f"https://example.com/{number}/s3cret", user_id="u"
        )
        for number in range(3)
    ]
    dead, *others = (run.run_id for run in runs)
    await busy.manager.cancel(dead)
    (claimed,) = await busy.manager.claim_webhooks(lease=60, limit=10)
    report = WebhookReport(delivered=False, status_code=500, error=f"answered {EVIL}")
    assert await busy.manager.report_webhook(dead, attempt=claimed.attempt, report=report)
    made = [
        await busy.manager.create_cron(cron)
        for cron in (cron_of("c0", enabled=False, user_id="u"), cron_of("c1", thread_id="t1"))
    ]
    return Owed(busy, dead, others, [cron.cron_id for cron in made])


async def test_webhooks_list(owed: Owed) -> None:
    async def ids(*args: str) -> set[str]:
        answer = await owed.busy.cli("webhooks", "list", "--json", *args)
        assert answer.code == DONE, answer.err
        return {one["run_id"] for one in answer.document["webhooks"]}

    assert await ids() == {owed.dead, *owed.waiting}
    assert await ids("--state", "waiting", "--state", "due") == {*owed.waiting}
    assert await ids("--run", owed.dead, "--user", "u") == {owed.dead}
    assert len(await ids("--limit", "2")) == 2
    assert await ids("--user", "v") == set()
    answer = await owed.busy.cli("webhooks", "list", "--state", "dead", "--json")
    (one,) = answer.document["webhooks"]
    assert (one["attempts"], one["status_code"]) == (1, 500)
    assert one["url"] == "https://example.com/…"
    people = await owed.busy.cli("webhooks", "list")
    assert owed.dead in people.out
    assert "s3cret" not in people.out + answer.out
    assert "\x1b[31mred" not in people.out


async def test_webhooks_retry(owed: Owed) -> None:
    async def dead() -> int:
        answer = await owed.busy.cli("webhooks", "list", "--state", "dead", "--json")
        return len(answer.document["webhooks"])

    refused = await owed.busy.cli("webhooks", "retry", owed.dead, owed.waiting[0], "--json")
    assert (refused.code, refused.error["type"]) == (FAILED, "WebhookNotDead")
    assert await dead() == 1, "nothing was written"
    unknown = await owed.busy.cli("webhooks", "retry", owed.busy.done.run_id, "--json")
    assert (unknown.code, unknown.error["type"]) == (FAILED, "WebhookNotFound")
    assert (await owed.busy.cli("webhooks", "retry", "--all", "--user", "v")).out == "no webhook is dead\n"
    answer = await owed.busy.cli("webhooks", "retry", owed.dead, "--json")
    assert (answer.code, answer.document) == (DONE, {"retried": [owed.dead]})
    assert await dead() == 0
    (claimed,) = await owed.busy.manager.claim_webhooks(lease=60, limit=10)
    assert (claimed.run_id, claimed.attempt) == (owed.dead, 1)


async def test_crons_list_and_delete(owed: Owed) -> None:
    async def ids(*args: str) -> list[str]:
        answer = await owed.busy.cli("crons", "list", "--json", *args)
        assert answer.code == DONE, answer.err
        return sorted(one["cron_id"] for one in answer.document["crons"])

    assert await ids() == owed.crons
    assert await ids("--disabled") == ["c0"]
    assert await ids("--enabled") == await ids("--thread", "t1") == ["c1"]
    assert await ids("--user", "u") == ["c0"]
    assert await ids("--assistant", "nobody's") == []
    people = await owed.busy.cli("crons", "list")
    assert "one for each run" in people.out
    answer = await owed.busy.cli("crons", "delete", "c0")
    assert (answer.code, answer.out) == (DONE, "cron c0 is deleted; runs that it has begun go on\n")
    assert await ids() == ["c1"]
    again = await owed.busy.cli("crons", "delete", "c0", "--json")
    assert (again.code, again.error["type"]) == (FAILED, "CronNotFound")
