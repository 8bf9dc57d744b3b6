"""`coordinator threads`, `workers` and `explain`: who reads leaves no trace."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.support.builders import fence_epoch, new_worker, running
from tests.support.command_line import (
    DONE,
    EVIL,
    FAILED,
    USAGE,
    Busy,
)


async def test_threads_list(busy: Busy) -> None:
    await busy.manager.threads.create("t2", metadata={"team": EVIL, "n": 1}, user_id="u", ttl=3600)
    await busy.manager.threads.create("t3", temporary=True)

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
    none = await busy.cli("threads", "list", "--user", "v")
    assert (none.code, "no such threads" in none.out + none.err) == (DONE, True)


@pytest.mark.parametrize("args", [("--status", "banana"), ("--metadata", "team"), ("--user", "")])
async def test_threads_list_names_invalid_filter(busy: Busy, args: tuple[str, str]) -> None:
    answer = await busy.cli("threads", "list", *args)
    assert answer.code == USAGE
    assert args[0] in answer.err


async def test_threads_show(busy: Busy) -> None:
    thread = (await busy.cli("threads", "show", "t1", "--json")).document["thread"]
    assert thread["status"] == "busy"
    assert thread["holder"]["run_id"] == busy.running.run_id
    assert thread["waiting"] == [run.run_id for run in busy.waiting]
    assert thread["values"] == {"text": [EVIL], "long": list(range(100))}
    assert len(thread["runs"]) == 4
    people = (await busy.cli("threads", "show", "t1")).out
    assert busy.running.run_id in people
    assert "more lines; --json shows all" in people
    missing = await busy.cli("threads", "show", "t2", "--json")
    assert (missing.code, missing.error["thread_id"]) == (FAILED, "t2")


async def test_workers_list(busy: Busy) -> None:
    (worker,) = (await busy.cli("workers", "list", "--json")).document["workers"]
    assert (worker["epoch"], worker["state"], worker["holding"]) == (busy.manager.worker.epoch, "live", 1)
    assert (worker["gone"], worker["expired"], worker["pid"]) == (False, False, os.getpid())
    assert "live" in (await busy.cli("workers", "list")).out


async def test_explain(busy: Busy) -> None:
    waits = (await busy.cli("explain", busy.waiting[1].run_id, "--json")).document
    assert (waits["run"]["position"], waits["holder"]) == (2, busy.running.run_id)
    await busy.cli("runs", "cancel", busy.running.run_id, "--reason", "why", "--actor", "me", "--wait", "5")
    explanation = (await busy.cli("explain", busy.running.run_id, "--json")).document
    assert [step["what"] for step in explanation["timeline"]] == ["admitted", "started", "decided", "settled"]
    decided = explanation["timeline"][2]
    assert (decided["cause"], decided["actor"], decided["detail"]) == ("admin", "me", "why")
    assert explanation["receipt"]["settled_at"] is not None
    people = (await busy.cli("explain", busy.running.run_id)).out
    assert "running → interrupted" in people
    assert "admin: why" in people


async def test_explain_names_the_worker_that_died_and_the_one_that_adopted(busy: Busy) -> None:
    store = busy.manager.store
    [me] = await busy.manager.worker.fleet()
    peer = new_worker(assistants=("agent",), host=me.host, boot_id=me.boot_id, pid=os.getpid())
    peers = [await store.register(replace(peer, worker_id=f"w{number}")) for number in range(3)]
    own = await running(store, peers[0], "t9", assistant_id="agent", portable=True, retries=1)
    await fence_epoch(store, peers[0], by=peers[1])
    [orphan] = await store.sweep(by=peers[1], error="dead")
    assert orphan.adopted is not None
    await store.start(orphan.adopted, None)
    await store.drain(peers[1])
    await store.hand_over(orphan.adopted)
    await store.sweep(by=peers[2], error="dead")
    lines = (await busy.cli("explain", own.run_id)).out.splitlines()
    adopted = [line for line in lines if "adopted" in line]
    first, second, third = (f"worker epoch {epoch}" for epoch in peers)
    assert [second in adopted[0], f"{first} is dead" in adopted[0]] == [True, True]
    assert [third in adopted[1], f"{second} drains" in adopted[1]] == [True, True]


async def test_read_commands_register_no_worker(busy: Busy) -> None:
    before = await busy.workers()
    for command in (("runs", "list"), ("workers", "list"), ("threads", "show", "t1"), ("db", "check")):
        assert (await busy.cli(*command)).code == DONE
    assert await busy.workers() == before
