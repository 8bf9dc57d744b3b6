"""Streams of runs: framing, replay, modes, heartbeats and disconnects."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from uuid import uuid4

import httpx
import pytest

from coordinator import Cause, StoreUnavailable
from coordinator.servers.valkey import ValkeyServer
from tests.gateway.conftest import UNLINKED, Pair, pair_of
from tests.support.gateway_agents import GATES
from tests.support.gateways import (
    Served,
    all_closed,
    demo,
    new_thread,
    one_gateway,
    start_running,
    status_of,
    until_read,
    until_status,
)
from tests.support.sse import Sent, all_events, events
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_exception_is_logged")
pair = pytest.fixture(pair_of, params=UNLINKED)


def body(assistant: str = "agent", run_input: Any = None, **more: Any) -> dict[str, Any]:
    return {"json": {"assistant_id": assistant, "input": run_input or demo(), **more}}


class TestNew:
    async def test_stream_has_metadata_then_events_then_ends(self, pair: Pair, thread: str) -> None:
        local, _ = pair
        async with local.raw.stream(
            "POST", f"/threads/{thread}/runs/stream", **body(run_input=demo(steps=2, tag="a"))
        ) as response:
            path = response.headers["content-location"]
            assert path.startswith(f"/threads/{thread}/runs/")
            assert response.headers["location"] == f"{path}/stream"
            assert response.headers["cache-control"] == "no-store"
            sent = [one async for one in events(response)]
        run = path.rsplit("/", 1)[1]
        assert sent == [
            Sent("metadata", {"run_id": run, "attempt": 1}, None),
            Sent("values", {"log": ["a:1"], "done": 1, "steps": 2}, None),
            Sent("values", {"log": ["a:1", "a:2"], "done": 2, "steps": 2}, None),
        ]
        assert await status_of(pair[1].sdk, thread, run) == "success"

    async def test_failed_run_sends_one_error_event(self, pair: Pair, thread: str) -> None:
        sent = await all_events(
            pair[0].raw, "POST", f"/threads/{thread}/runs/stream", **body(run_input=demo(steps=2, fail=True))
        )
        assert [one.event for one in sent] == ["metadata", "values", "error"]
        assert sent[-1].data == {"error": "ValueError", "message": "demo failure requested"}

    async def test_sdk_reads_a_stream(self, pair: Pair, thread: str) -> None:
        parts = [part async for part in pair[0].sdk.runs.stream(thread, "agent", input=demo(steps=3))]
        assert [part.event for part in parts] == ["metadata", "values", "values", "values"]
        v2 = [
            part async for part in pair[0].sdk.runs.stream(thread, "agent", input=demo(steps=1), version="v2")
        ]
        assert [part["type"] for part in v2] == ["metadata", "values"]

    async def test_returned_dict_is_streamed_as_values(self, pair: Pair, thread: str) -> None:
        sent = await all_events(
            pair[0].raw, "POST", f"/threads/{thread}/runs/stream", **body("echo", metadata={"a": 1})
        )
        assert [one.event for one in sent] == ["metadata", "values"]
        assert sent[1].data["metadata"] == {"a": 1}

    async def test_unpaired_surrogate_does_not_break_the_client(self, pair: Pair, thread: str) -> None:
        parts = [
            part
            async for part in pair[0].sdk.runs.stream(thread, "surrogates", stream_mode=["custom", "values"])
        ]
        assert [part.data for part in parts[1:3]] == [{"text": "? half"}] * 2
        assert (await pair[1].sdk.threads.get(thread))["values"] == {"text": "? half"}


class TestModes:
    async def test_modes_of_the_demo_assistant(self, pair: Pair, thread: str) -> None:
        parts = [
            part.event
            async for part in pair[0].sdk.runs.stream(
                thread, "agent", input=demo(steps=2), stream_mode=["values", "updates"]
            )
        ]
        assert parts == ["metadata", *["values", "updates"] * 2]

    async def test_paused_function_streams_its_question_after_its_update(
        self, pair: Pair, thread: str
    ) -> None:
        modes: list[Any] = ["values", "updates"]
        local, other = pair
        parts = [part async for part in local.sdk.runs.stream(thread, "asker", stream_mode=modes)]
        held, interrupts = {"waits_for_answer": True}, {"__interrupt__": [{"value": "really?", "id": "q1"}]}
        assert [(part.event, part.data) for part in parts[1:]] == [
            ("updates", {"asker": held}),
            ("updates", interrupts),
            ("values", held | interrupts),
        ]
        assert (await other.sdk.threads.get(thread))["values"] == held
        stream = other.sdk.runs.stream(thread, "asker", command={"resume": "yes"}, stream_mode=modes)
        assert [(part.event, part.data) async for part in stream][1:] == [
            ("updates", {"asker": {"answer": "yes"}}),
            ("values", {"answer": "yes"}),
        ]

    @pytest.mark.parametrize(
        ("mode", "expected"),
        [
            ("values", ["values"]),
            ("custom", ["custom"]),
            ("updates", ["updates"]),
            ("messages-tuple", ["messages"]),
            ("messages", ["messages", "messages/partial"]),
            (["values", "custom"], ["custom", "values"]),
            (["tasks", "debug"], []),
            ([], ["values"]),
        ],
    )
    async def test_stream_has_only_requested_modes(self, one: Served, mode: Any, expected: list[str]) -> None:
        thread = await new_thread(one.sdk)
        parts = [part.event async for part in one.sdk.runs.stream(thread, "talker", stream_mode=mode)]
        assert parts == ["metadata", *expected]

    async def test_events_of_subgraphs_need_stream_subgraphs(self, one: Served) -> None:
        thread = await new_thread(one.sdk)
        parts = [
            part.event
            async for part in one.sdk.runs.stream(
                thread, "talker", stream_mode="updates", stream_subgraphs=True
            )
        ]
        assert parts == ["metadata", "updates", "updates|child:1"]

    @pytest.mark.parametrize(
        "query",
        [
            [("stream_mode", "custom"), ("stream_mode", "updates")],
            [("stream_mode", '["custom","updates"]')],
            [("stream_mode", '["custom"]'), ("stream_mode", "updates"), ("stream_mode", "")],
        ],
        ids=["repeated", "one array", "mixed"],
    )
    async def test_joining_client_selects_modes_in_both_encodings(self, one: Served, query: Any) -> None:
        thread = await new_thread(one.sdk)
        run = await one.sdk.runs.create(thread, "talker", stream_resumable=True)
        sent = await all_events(
            one.raw,
            "GET",
            f"/threads/{thread}/runs/{run['run_id']}/stream",
            params=query,
            headers={"Last-Event-ID": "-1"},
        )
        assert [event.event for event in sent] == ["metadata", "custom", "updates"]

    async def test_an_unknown_mode_is_refused(self, one: Served) -> None:
        thread = await new_thread(one.sdk)
        run = await start_running(one.sdk, thread, sleep=60)
        for mode in ("nonsense", '["values","nonsense"]', '["values"', "[[[", "[1]", "[" * 5000):
            answer = await one.raw.get(f"/threads/{thread}/runs/{run}/stream", params={"stream_mode": mode})
            assert answer.status_code == 422, mode


class TestReplay:
    async def test_only_resumable_runs_have_unique_event_ids(self, pair: Pair, thread: str) -> None:
        for resumable in (True, False):
            sent = await all_events(
                pair[0].raw,
                "POST",
                f"/threads/{thread}/runs/stream",
                **body(
                    "talker", {"times": 200}, stream_mode=["custom", "values"], stream_resumable=resumable
                ),
            )
            ids = [event.id for event in sent]
            assert len(ids) == 401
            if not resumable:
                assert set(ids) == {None}
                continue
            numbers = [tuple(map(int, str(one).split("-"))) for one in ids]
            assert numbers == sorted(set(numbers))

    async def test_stream_resumes_after_any_event_on_any_worker(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        run_input = body(run_input=demo(steps=5, fail=True), stream_resumable=True)
        whole = await all_events(local.raw, "POST", f"/threads/{thread}/runs/stream", **run_input)
        assert [event.event for event in whole] == ["metadata", *["values"] * 4, "error"]
        path = f"/threads/{thread}/runs/{whole[0].data['run_id']}/stream"
        for start in ("-1", "0", "-"):
            assert await all_events(remote.raw, "GET", path, headers={"Last-Event-ID": start}) == whole
        for seen, event in enumerate(whole):
            rest = await all_events(remote.raw, "GET", path, headers={"Last-Event-ID": str(event.id)})
            assert rest == whole[seen + 1 :]

    async def test_replay_continues_with_live_events(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        run = await local.sdk.runs.create(
            thread, "gated", input={"gate": thread}, stream_mode="custom", stream_resumable=True
        )
        path = f"/threads/{thread}/runs/{run['run_id']}/stream"
        async with remote.raw.stream("GET", path, headers={"Last-Event-ID": "-1"}) as response:
            sent: list[Sent] = []
            async for event in events(response):
                sent.append(event)
                if event.data == "waiting":
                    GATES[thread].set()
        assert [event.data for event in sent[1:]] == ["waiting", "through"]

    async def test_join_without_an_id_streams_only_new_events(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        run = await local.sdk.runs.create(thread, "gated", input={"gate": thread}, stream_mode="custom")
        path = f"/threads/{thread}/runs/{run['run_id']}/stream"
        await until_status(remote.sdk, thread, run["run_id"], "running")
        await until_read(remote, run["run_id"], "waiting")
        async with remote.raw.stream("GET", path) as response:
            assert response.headers["location"] == path
            assert response.headers["content-location"] == path.removesuffix("/stream")
            GATES[thread].set()
            sent = [event async for event in events(response)]
        assert sent == [Sent("custom", "through", None)]

    @pytest.mark.parametrize("fail", [False, True], ids=["success", "error"])
    async def test_stream_of_a_settled_run_has_only_its_error(
        self, pair: Pair, thread: str, *, fail: bool
    ) -> None:
        local, remote = pair
        run = await local.sdk.runs.create(thread, "agent", input=demo(steps=3, fail=fail))
        await local.sdk.runs.join(thread, run["run_id"])
        path, received = f"/threads/{thread}/runs/{run['run_id']}/stream", ["error"] if fail else []
        assert [sent.event for sent in await all_events(remote.raw, "GET", path)] == received
        assert [part.event async for part in remote.sdk.runs.join_stream(thread, run["run_id"])] == received

    async def test_queued_run_is_streamed_from_its_start(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        await local.sdk.runs.create(thread, "gated", input={"gate": thread})
        run = (await local.sdk.runs.create(thread, "agent", input=demo(steps=2)))["run_id"]
        async with remote.raw.stream("GET", f"/threads/{thread}/runs/{run}/stream") as response:
            GATES.setdefault(thread, asyncio.Event()).set()
            sent = [event.event async for event in events(response)]
        assert sent == ["metadata", "values", "values"]

    async def test_invalid_last_event_id_is_refused(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        run = await local.sdk.runs.create(thread, "agent", input=demo(sleep=60), stream_resumable=True)
        path = f"/threads/{thread}/runs/{run['run_id']}/stream"
        for wrong in ("abc", "1", "1-", "-5-3", f"{10**30}-0", "1-1-1", "ä"):
            answer = await remote.raw.get(path, headers=[(b"Last-Event-ID", wrong.encode("latin-1"))])
            assert answer.status_code == 422, wrong

    async def test_an_id_that_was_never_issued_is_a_gap(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        run_input = body(run_input=demo(steps=2), stream_resumable=True)
        whole = await all_events(local.raw, "POST", f"/threads/{thread}/runs/stream", **run_input)
        path = f"/threads/{thread}/runs/{whole[0].data['run_id']}/stream"
        sent = await all_events(remote.raw, "GET", path, headers={"Last-Event-ID": "1-77"})
        assert [event.event for event in sent] == ["gap"]
        assert sent[0].id is None

    async def test_an_unknown_run_is_not_found(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        run = await start_running(local.sdk, thread, sleep=60)
        other = await new_thread(local.sdk)
        for path in (f"{thread}/runs/{uuid4()}", f"{other}/runs/{run}", f"{uuid4()}/runs/{run}"):
            for verb in ("stream", "join"):
                assert (await remote.raw.get(f"/threads/{path}/{verb}")).status_code == 404


class TestGoing:
    """A disconnect of a client is detected within two seconds."""

    @pytest.mark.parametrize("verb", ["stream", "wait"])
    @pytest.mark.parametrize("mode", ["cancel", "continue", None])
    async def test_on_disconnect_decides_about_the_run_of_the_stream(
        self, pair: Pair, thread: str, verb: str, mode: str | None
    ) -> None:
        local, remote = pair
        more = {} if mode is None else {"on_disconnect": mode}
        run_input = body("gated", {"gate": thread}, **more)
        async with local.raw.stream("POST", f"/threads/{thread}/runs/{verb}", **run_input) as response:
            run = response.headers["content-location"].rsplit("/", 1)[1]
            await until_status(remote.sdk, thread, run, "running")
        left = time.monotonic()
        if mode == "cancel":
            await until_status(remote.sdk, thread, run, "interrupted")
            assert time.monotonic() - left < 2
            shown = (await remote.raw.get(f"/threads/{thread}/runs/{run}")).json()
            assert "disconnected" in shown["cancel_reason"]
            return
        await all_closed(local)
        assert await status_of(remote.sdk, thread, run) == "running"
        GATES[thread].set()
        assert await remote.sdk.runs.join(thread, run) == {"log": ["run:through"]}

    @pytest.mark.parametrize("verb", ["stream", "join"])
    @pytest.mark.parametrize("flag", ["true", "1", "false", None])
    async def test_cancel_on_disconnect_decides_about_a_joined_run(
        self, two: Pair, verb: str, flag: str | None
    ) -> None:
        local, remote = two
        thread = await new_thread(local.sdk)
        run = (await local.sdk.runs.create(thread, "gated", input={"gate": thread}))["run_id"]
        params = {} if flag is None else {"cancel_on_disconnect": flag}
        async with remote.raw.stream("GET", f"/threads/{thread}/runs/{run}/{verb}", params=params):
            await until_status(local.sdk, thread, run, "running")
        if flag in ("true", "1"):
            await until_status(local.sdk, thread, run, "interrupted", timeout=2)
            row = (await local.manager.runs.explain(run)).run
            assert row.cancel_cause is Cause.disconnect, "receipts and webhooks have this cause"
            return
        await all_closed(remote)
        assert await status_of(local.sdk, thread, run) == "running"

    async def test_disconnect_is_committed_after_a_store_outage(
        self, one: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The client disconnects while the store is unavailable: `on_disconnect` is applied afterwards."""
        monkeypatch.setattr("coordinator.gateway.long_lived_responses._RETRY_DELAY", 0.05)
        thread, refused = await new_thread(one.sdk), asyncio.Event()
        disconnected = one.manager.disconnected

        async def away_once(*args: Any, **kwargs: Any) -> Any:
            if not refused.is_set():
                refused.set()
                raise StoreUnavailable("it is away")
            return await disconnected(*args, **kwargs)

        monkeypatch.setattr(one.manager, "disconnected", away_once)
        run_input = body("gated", {"gate": thread}, on_disconnect="cancel")
        async with one.raw.stream("POST", f"/threads/{thread}/runs/stream", **run_input) as response:
            run = response.headers["content-location"].rsplit("/", 1)[1]
            await until_status(one.sdk, thread, run, "running")
        await refused.wait()
        await until_status(one.sdk, thread, run, "interrupted", timeout=5)

    async def test_disconnect_does_not_change_an_ended_run(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        run_input = body(on_disconnect="cancel")
        sent = await all_events(local.raw, "POST", f"/threads/{thread}/runs/stream", **run_input)
        assert await status_of(remote.sdk, thread, sent[0].data["run_id"]) == "success"


class TestHeartbeats:
    async def test_heartbeat_comments_without_events(self, one: Served) -> None:
        thread = await new_thread(one.sdk)
        run = await start_running(one.sdk, thread, sleep=60)
        async with one.raw.stream("GET", f"/threads/{thread}/runs/{run}/stream") as response:
            chunks = response.aiter_raw()
            for _ in range(3):
                assert await anext(chunks) == b": heartbeat\r\n\r\n"


async def test_stream_limit_refuses_before_admission() -> None:
    async with one_gateway(max_streams=2) as one:
        thread, run_input = await new_thread(one.sdk), body(run_input=demo(sleep=60))
        path = f"/threads/{thread}/runs/stream"
        async with one.raw.stream("POST", path, **run_input), one.raw.stream("POST", path, **run_input):
            for verb in ("stream", "wait"):
                refused = await one.raw.post(f"/threads/{thread}/runs/{verb}", **run_input)
                assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            run = (await one.sdk.runs.list(thread))[0]["run_id"]
            assert (await one.raw.get(f"/threads/{thread}/runs/{run}/join")).status_code == 429
            assert len(await one.sdk.runs.list(thread)) == 2
            stopped = await one.raw.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": 1})
            assert stopped.status_code == 200  # a cancel needs no place
        await all_closed(one)
        assert (await one.raw.get(f"/threads/{thread}/runs/{run}/join")).status_code == 200


async def test_hundred_streams_of_one_run_receive_all_events_in_order(pair: Pair, thread: str) -> None:
    local, remote = pair
    run = await local.sdk.runs.create(
        thread, "gated", input={"gate": thread}, stream_mode="custom", stream_resumable=True
    )
    path = f"/threads/{thread}/runs/{run['run_id']}/stream"
    limits = httpx.Limits(max_connections=None)
    opened = 0

    async def watch(served: Served, client: httpx.AsyncClient) -> list[Sent]:
        nonlocal opened
        headers = {"Last-Event-ID": "0"}
        async with client.stream("GET", f"{served.url}{path}", headers=headers) as response:
            opened += 1
            return [event async for event in events(response)]

    async with httpx.AsyncClient(limits=limits, timeout=30) as client:
        watching = [
            asyncio.create_task(watch(served, client)) for _ in range(50) for served in (local, remote)
        ]
        await wait_until(lambda: opened == 100, description="all streams are open", timeout=30)
        GATES[thread].set()
        received = await asyncio.gather(*watching)
    assert all(one == received[0] for one in received)
    assert [event.data for event in received[0][1:]] == ["waiting", "through"]


def test_encoding_of_an_event() -> None:
    from coordinator.gateway.streams import frame

    assert frame("values", b"{}", "3-7") == b"event: values\r\ndata: {}\r\nid: 3-7\r\n\r\n"
    assert frame("a|b", json.dumps("x\ny").encode()) == b'event: a|b\r\ndata: "x\\ny"\r\n\r\n'


class TestLeaving:
    """The worker drains: clients reconnect to another one, and no client counts as disconnected."""

    async def test_abort_streams_aborts_open_streams_and_refuses_new_ones(
        self, pair: Pair, thread: str
    ) -> None:
        local, remote = pair
        path = ""

        async def watch() -> None:
            nonlocal path
            run_input = body("gated", {"gate": thread}, on_disconnect="cancel")
            async with local.raw.stream("POST", f"/threads/{thread}/runs/stream", **run_input) as response:
                path = response.headers["content-location"]
                async for _ in events(response):
                    local.gateway.abort_streams()

        with pytest.raises(httpx.RemoteProtocolError):
            await watch()
        for verb in ("stream", "join"):
            refused = await local.raw.get(f"{path}/{verb}")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert (await remote.raw.get(path)).json()["status"] in ("pending", "running")
        GATES.setdefault(thread, asyncio.Event()).set()
        await until_status(remote.sdk, thread, path.rsplit("/", 1)[1], "success")

    async def test_abort_streams_aborts_long_polls(self, pair: Pair, thread: str) -> None:
        local, remote = pair
        run = await local.sdk.runs.create(thread, "gated", input={"gate": thread})

        async def join() -> None:
            path = f"/threads/{thread}/runs/{run['run_id']}/join"
            async with local.raw.stream("GET", path) as response:
                async for _ in response.aiter_raw():
                    local.gateway.abort_streams()

        with pytest.raises(httpx.RemoteProtocolError):
            await join()
        GATES.setdefault(thread, asyncio.Event()).set()
        await until_status(remote.sdk, thread, run["run_id"], "success")


FORGED = [
    ("custom", '{"a":1}\r\n\r\nevent: error\r\ndata: {"error":"FORGED"}'),
    ("custom", '{"a":1}\n\nevent: error\ndata: {"error":"FORGED"}'),
    ("custom", '{"a":1}\revent: error\rdata: {"error":"FORGED"}'),
    ("custom\r\nevent: error", '{"error":"FORGED"}'),
    ("custom\n\nevent: values", '{"error":"FORGED"}'),
    ("custom", '{"error":"FORGED\x00"}'),
    ("custom", '{"error":"FORGÉD"}'),
]


async def test_foreign_log_entries_are_not_streamed(
    two: Pair, shared_valkey: ValkeyServer, namespace: str
) -> None:
    """A client that can write to Redis cannot forge events: forged entries are delivered as a gap."""
    local, remote = two

    async def streamed(mode: str, data: str) -> None:
        thread = await new_thread(local.sdk)
        run = await local.sdk.runs.create(
            thread, "agent", input=demo(), stream_mode="custom", stream_resumable=True
        )
        await local.sdk.runs.join(thread, run["run_id"])
        log = f"{namespace}:{{t:{thread}}}:log:{run['run_id']}"
        shared_valkey.command("DEL", log)
        shared_valkey.command("XADD", log, "1-1", mode, data)
        for worker in (local, remote):
            path = f"/threads/{thread}/runs/{run['run_id']}/stream"
            sent = await all_events(worker.raw, "GET", path, headers={"Last-Event-ID": "-1"})
            assert [one.event for one in sent] == ["metadata", "gap"], (mode, data)

    await asyncio.gather(*(streamed(mode, data) for mode, data in FORGED))


async def test_unpaired_surrogate_in_invalid_json_does_not_break_a_stream(
    two: Pair, shared_valkey: ValkeyServer, namespace: str
) -> None:
    local, remote = two
    thread = await new_thread(local.sdk)
    run = await local.sdk.runs.create(thread, "agent", input=demo(), stream_resumable=True)
    await local.sdk.runs.join(thread, run["run_id"])
    log = f"{namespace}:{{t:{thread}}}:log:{run['run_id']}"
    shared_valkey.command("DEL", log)
    shared_valkey.command("XADD", log, "1-1", "values", "{{{\\ud800")
    answer = await remote.raw.get(
        f"/threads/{thread}/runs/{run['run_id']}/stream", headers={"Last-Event-ID": "-1"}
    )
    assert b"event: values\r\ndata: {{{\\ud800\r\nid: 1-1\r\n\r\n" in answer.content
