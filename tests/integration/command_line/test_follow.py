"""`coordinator runs follow`."""

from __future__ import annotations

import json
from pathlib import Path

from coordinator.servers.valkey import ValkeyServer
from tests.support.command_line import (
    DONE,
    EVIL,
    USAGE,
    Busy,
    busy_worker,
)


async def test_follow_a_run_through_redis(
    tmp_path: Path, shared_valkey: ValkeyServer, namespace: str
) -> None:
    settings = {"redis": shared_valkey.url, "namespace": namespace}
    async with busy_worker(tmp_path / "runs.db", **settings) as busy:
        where = ("--redis", shared_valkey.url, "--namespace", namespace)
        answer = await busy.cli("runs", "follow", busy.done.run_id, "--json", *where)
        event, end = (json.loads(line) for line in answer.out.splitlines())
        assert event["event"]["mode"] == "values"
        assert event["event"]["data"] == {"text": [EVIL], "long": list(range(100))}
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


async def test_follow_without_redis_reads_the_store(busy: Busy) -> None:
    answer = await busy.cli("runs", "follow", busy.done.run_id)
    event, end = answer.out.splitlines()
    assert (answer.code, event.split()[:2], end) == (DONE, ["1-1", "values"], "-- success")
    assert await busy.workers() == 1


async def test_follow_refuses_invalid_event_id(busy: Busy) -> None:
    answer = await busy.cli("runs", "follow", busy.done.run_id, "--after", "x", "--json")
    assert (answer.code, answer.error["type"]) == (USAGE, "InvalidArgument")
