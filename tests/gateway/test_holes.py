"""Known classes of vulnerabilities of such servers, and the tests that cover each of them.

`HOLES` is the table of classes and their tests, in this file and in others. A named test that does not exist
is a failure."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from coordinator.gateway.caller import Role
from tests.support.asgi import key_for, serving
from tests.support.served import served

HERE = "tests.gateway.test_holes"
MATRIX = "tests.gateway.test_authorization"
PAGES = "tests.gateway.test_hosts_and_origins"
OPERATIONS = "tests.gateway.test_operations"


class Hole(NamedTuple):
    number: str
    """H and the number of the class, or the number of the reported failure."""
    what: str
    tests: tuple[str, ...]


HOLES = (
    Hole(
        "H1",
        "the parent is authorised, the child is not: a foreign run on an own thread, a stream's first frame",
        (f"{MATRIX}:test_permissions_match_the_matrix", f"{HERE}:test_no_frame_of_a_foreign_run_is_sent"),
    ),
    Hole(
        "H2",
        "the request is authorised, its parts are not: bulk bodies, commands, messages between workers",
        (
            f"{MATRIX}:test_batch_with_a_foreign_thread_starts_no_run",
            f"{MATRIX}:test_cancelling_all_cancels_only_runs_of_the_caller",
            f"{HERE}:test_run_cannot_name_another_thread_user_or_run",
            "tests.fundamentals.test_without_redis:test_forged_and_malformed_messages_have_no_effect",
        ),
    ),
    Hole(
        "H3",
        "public paths by suffix or substring",
        (f"{HERE}:test_paths_similar_to_public_ones_need_a_key",),
    ),
    Hole(
        "H4",
        "a route outside of the middleware: WebSocket, SSE, a mounted app",
        (
            f"{HERE}:test_added_routes_are_behind_the_middleware",
            f"{PAGES}:test_websocket_passes_the_same_middleware",
        ),
    ),
    Hole(
        "H5",
        "related records; secrets in lists, errors, labels, logs",
        (
            f"{HERE}:test_lists_and_errors_contain_no_input_of_a_run",
            "tests.gateway.test_request_ids:test_keys_queries_and_forged_lines_are_not_logged",
            f"{OPERATIONS}:test_labels_contain_no_client_input",
            f"{OPERATIONS}:test_unavailable_store_ends_readiness_and_is_named_only_to_admins",
            "tests.gateway.test_key_commands:test_list_shows_neither_keys_nor_hashes",
        ),
    ),
    Hole("H6", "injection by a metadata key", (f"{HERE}:test_keys_of_metadata_are_not_interpreted",)),
    Hole(
        "H7",
        "a lone surrogate, NUL, 10^20 or depth 10,000 that changes the decoder or breaks it",
        (
            f"{HERE}:test_accepted_json_is_returned_unchanged",
            f"{HERE}:test_ambiguous_json_is_refused",
            "tests.hostile.test_hostile:test_hostile_requests_break_nothing",
        ),
    ),
    Hole(
        "H8",
        "webhooks to loopback, relative, rebinding",
        (
            "tests.webhooks.test_targets:test_url_with_forbidden_host_is_refused",
            "tests.webhooks.test_targets:test_url_that_is_not_public_https_is_refused",
            "tests.webhooks.test_targets:test_name_that_resolves_to_forbidden_address_is_refused",
            "tests.gateway.test_webhooks:test_the_url_of_a_webhook_is_not_shown",
        ),
    ),
    Hole(
        "H9",
        "ids that change the path",
        (
            f"{HERE}:test_ids_are_validated_as_uuids_everywhere",
            f"{PAGES}:test_ambiguous_path_is_not_found",
        ),
    ),
    Hole(
        "H10",
        "a web page that drives a local server: foreign Host or Origin",
        (
            f"{PAGES}:test_a_foreign_host_is_refused",
            f"{PAGES}:test_a_foreign_origin_is_refused",
            f"{PAGES}:test_embedded_cross_site_requests_are_refused",
            f"{HERE}:test_foreign_page_cannot_use_a_running_server",
        ),
    ),
    Hole(
        "H11",
        "open by default on all addresses",
        (
            "tests.gateway.test_exposure:test_other_addresses_need_keys",
            f"{HERE}:test_server_without_keys_does_not_listen_on_other_addresses",
        ),
    ),
    Hole(
        "H12",
        "Redis KEYS, SCAN, PSUBSCRIBE, and more rights than needed",
        (
            "tests.unit.test_readme:test_the_acl_line_is_enough",
            f"{HERE}:test_documented_redis_acl_grants_no_listing",
        ),
    ),
    Hole(
        "43",
        "a dashboard that lies: numbers are of the store, or of now",
        (
            f"{OPERATIONS}:test_metrics_count_runs_and_requests_by_template",
            f"{OPERATIONS}:test_one_process_exposes_metrics_of_all",
        ),
    ),
    Hole(
        "42",
        "a worker that is deaf or away is still sent requests",
        (f"{OPERATIONS}:test_drain_responds_at_once_and_ends_readiness",),
    ),
)  # fmt: skip


def test_every_test_of_the_table_exists() -> None:
    for hole in HOLES:
        assert hole.tests, hole.what
        for name in hole.tests:
            module, _, test = name.partition(":")
            assert callable(getattr(importlib.import_module(module), test, None)), f"{hole.number}: {name}"


def test_every_class_has_a_row() -> None:
    assert {hole.number for hole in HOLES} >= {f"H{number}" for number in range(1, 13)}


SLOW = {"assistant_id": "agent", "input": {"sleep": 60}}


class Users:
    """Two users, each with a key, a thread and a run on it."""

    def __init__(self, client: httpx.AsyncClient, keys: dict[str, dict[str, str]]) -> None:
        self._client, self._keys = client, keys
        self.threads: dict[str, str] = {}
        self.runs: dict[str, str] = {}

    async def send(self, user: str, method: str, path: str, body: Any = None) -> httpx.Response:
        return await self._client.request(method, path, json=body, headers=self._keys[user])

    async def begin(self) -> None:
        for user in self._keys:
            self.threads[user] = (await self.send(user, "POST", "/threads", {})).json()["thread_id"]
            kept = {"assistant_id": "agent", "input": {"tag": f"secret of {user}"}, "stream_resumable": True}
            ended = await self.send(user, "POST", f"/threads/{self.threads[user]}/runs/wait", kept)
            self.runs[user] = ended.headers["content-location"].rpartition("/")[2]


@pytest.fixture
async def users(tmp_path: Path) -> Any:
    file = tmp_path / "keys.json"
    keys = {user: key_for(file, Role.user, user) for user in ("alice", "bob")}
    async with serving(api_keys=file) as (_, client):
        made = Users(client, keys)
        await made.begin()
        yield made


async def test_no_frame_of_a_foreign_run_is_sent(users: Users) -> None:
    for thread in users.threads.values():
        path = f"/threads/{thread}/runs/{users.runs['bob']}/stream"
        answer = await users.send("alice", "GET", path)
        assert answer.status_code == 404
        assert "data:" not in answer.text
        assert "secret of bob" not in answer.text


async def test_run_cannot_name_another_thread_user_or_run(users: Users) -> None:
    """An engine that receives the client's `configurable` unfiltered would write to a thread of its
    choice."""
    mine, theirs = users.threads["alice"], users.threads["bob"]
    foreign = {"thread_id": theirs, "run_id": users.runs["bob"], "user_id": "bob", "checkpoint_ns": "x"}
    body = {
        "assistant_id": "agent",
        "input": {"tag": "mine"},
        "config": {"configurable": {**foreign, "__secret": 1, "model": "m"}, "metadata": foreign},
        "checkpoint": {"thread_id": theirs, "checkpoint_id": "c"},
        "command": {"update": {"log": ["forged"]}, "goto": "x"},
        "metadata": {"run_id": users.runs["bob"]},
        **foreign,
    }
    before = (await users.send("bob", "GET", f"/threads/{theirs}")).content
    answer = await users.send("alice", "POST", f"/threads/{mine}/runs", body)
    run = answer.json()
    assert answer.status_code in (200, 422)
    if answer.status_code == 200:
        assert run["thread_id"] == mine
        await users.send("alice", "GET", f"/threads/{mine}/runs/{run['run_id']}/join")
        kept = (
            await users.send("alice", "GET", f"/threads/{mine}/runs?select=kwargs&select=metadata")
        ).json()[0]
        assert theirs not in json.dumps(kept)
        assert users.runs["bob"] not in json.dumps(kept)
        assert "__secret" not in json.dumps(kept)
    assert (await users.send("bob", "GET", f"/threads/{theirs}")).content == before


@pytest.mark.parametrize(
    "path",
    [
        "/metrics/ok", "/ok/metrics", "/coordinator/workers/health/live", "/coordinator/workers/ok",
        "/threads/health/ready", "/threads/ok", "/runs/ok", "/assistants/docs", "/threads/openapi.json",
        "/coordinator/health", "/coordinator/health/", "/coordinator/health/live/",
        "/coordinator/health/ready/x",
        "/ok/", "/OK", "/okay", "/xok", "/info/x", "/docs/", "/docs/x", "/metrics;/ok", "/metrics?/ok",
        "/metrics#/ok",
        "/public", "/static/ok", "/.well-known/ok", "/favicon.ico",
    ],
)  # fmt: skip
async def test_paths_similar_to_public_ones_need_a_key(path: str, tmp_path: Path) -> None:
    key_for(tmp_path / "keys", Role.admin)
    async with serving(api_keys=tmp_path / "keys") as (_, client):
        for method in ("GET", "POST", "HEAD", "DELETE", "OPTIONS"):
            answer = await client.request(method, path)
            assert answer.status_code in (401, 404), f"{method} {path}"


async def test_added_routes_are_behind_the_middleware(tmp_path: Path) -> None:
    key = key_for(tmp_path / "keys", Role.reader, "alice")
    async with serving(api_keys=tmp_path / "keys") as (gateway, client):

        async def reached(request: object) -> PlainTextResponse:
            return PlainTextResponse("reached")

        gateway.router.routes += [
            Route("/added", reached),
            Mount("/mounted", routes=[Route("/ok", reached)]),
        ]
        gateway.get("/declared/ok")(reached)
        for path in ("/added", "/mounted/ok", "/declared/ok"):
            assert (await client.get(path)).status_code == 401
            assert (await client.get(path, headers={**key, "host": "evil.example"})).status_code == 403
            assert (await client.get(path, headers={**key, "origin": "null"})).status_code == 403
        assert (await client.get("/mounted/ok", headers=key)).text == "reached"


async def test_lists_and_errors_contain_no_input_of_a_run(users: Users) -> None:
    thread = users.threads["alice"]
    frames = [
        await users.send("alice", "GET", f"/threads/{thread}/runs"),
        await users.send("alice", "GET", f"/coordinator/runs/{users.runs['alice']}/explain"),
        await users.send("alice", "GET", f"/coordinator/runs/{users.runs['alice']}/receipt"),
        await users.send("alice", "POST", f"/threads/{thread}/runs", {"input": "secret of alice"}),
        await users.send("alice", "POST", "/threads", {"metadata": "secret of alice"}),
    ]
    await users.send("alice", "POST", f"/threads/{thread}/runs", SLOW)
    frames.append(
        await users.send("alice", "POST", f"/threads/{thread}/runs", {**SLOW, "multitask_strategy": "reject"})
    )
    assert [answer.status_code for answer in frames] == [200, 200, 200, 422, 422, 409]
    for answer in frames:
        assert "secret of" not in answer.text


INJECTED = (
    "a'", 'a"', "a' OR '1'='1", "$.a", '$."a"', "a.b", "a[0]", "a[*]",
    "a->b", "%", "_", "a%", "*", "a\\", "a\\'",
    "a;DROP TABLE runs;--", "a)) OR 1=1 --", "{a}", "$1", "?", ":a", "", " ", "é", "🦀", "a/*",
    "NULL", "true",
)  # fmt: skip


async def test_keys_of_metadata_are_not_interpreted() -> None:
    async with serving() as (_, client):
        plain = (await client.post("/threads", json={"metadata": {"a": 1, "b": {"a": 1}}})).json()[
            "thread_id"
        ]
        for key in INJECTED:
            made = (await client.post("/threads", json={"metadata": {key: "here"}})).json()["thread_id"]
            matches = await client.post("/threads/search", json={"metadata": {key: "here"}})
            assert [one["thread_id"] for one in matches.json()] == [made], key
            for value in (1, True, None, {"a": 1}, ["here"], "here' OR '1'='1"):
                answer = await client.post("/threads/search", json={"metadata": {key: value}})
                assert answer.json() == [], (key, value)
            assert (await client.post("/threads/count", json={"values": {key: "here"}})).json() == 0
        matches = await client.post("/threads/search", json={"metadata": {"a": 1}})
        assert [one["thread_id"] for one in matches.json()] == [plain]


@pytest.mark.parametrize(
    "text",
    [
        "100000000000000000000",
        "-9223372036854775809",
        "1e-400",
        "0.1",
        '"\\ud83e\\udd80"',
        '"\\uffff\\u202e\\u0007"',
        "[" * 100 + "]" * 100,
        '{"a": {"": {"__proto__": null}}}',
    ],
)
async def test_accepted_json_is_returned_unchanged(text: str) -> None:
    async with serving() as (_, client):
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        sent = f'{{"values": {{"value": {text}}}}}'
        headers = {"content-type": "application/json"}
        written = await client.post(f"/threads/{thread}/state", content=sent, headers=headers)
        assert written.status_code == 200, written.text
        state = (await client.get(f"/threads/{thread}/state")).json()
        assert state["values"]["value"] == json.loads(text)


@pytest.mark.parametrize(
    "body",
    [
        b'{"metadata": {"a": "\\ud800"}}',
        b'{"metadata": {"\\udfff": 1}}',
        b'{"metadata": {"a": "\xed\xa0\x80"}}',
        b'{"metadata": {"a": NaN}}',
        b'{"metadata": {"a": -Infinity}}',
        b'{"metadata": {"a": 1e999}}',
        b'{"metadata": {"a": ' + b"1" * 5000 + b"}}",
        b'{"metadata": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
        b"[" * 10_000,
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        "{}".encode("utf-32-be"),
        b'{"metadata": {"a": "\x00"}}',
        b'{"metadata": {}} {}',
    ],
    ids=lambda body: str(body[:24]),
)
async def test_ambiguous_json_is_refused(body: bytes) -> None:
    async with serving() as (_, client):
        answer = await client.post("/threads", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422
        assert (await client.post("/threads/count", json={})).json() == 0


@pytest.mark.parametrize(
    "odd",
    ["../x", "..", "a/b", "a?b", "a#b", "a%2fb", "%2e%2e", "*", "", " ", "a\x00", "a" * 300, "null", "é"],
)
async def test_ids_are_validated_as_uuids_everywhere(odd: str) -> None:
    async with serving() as (_, client):
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        for path, body in (
            ("/threads", {"thread_id": odd}),
            ("/threads/search", {"ids": [odd]}),
            ("/runs/batch", [{"assistant_id": "agent", "thread_id": odd}]),
            ("/runs/cancel", {"thread_id": odd, "run_ids": [str(uuid4())]}),
            ("/runs/cancel", {"thread_id": thread, "run_ids": [odd]}),
        ):
            assert (await client.post(path, json=body)).status_code == 422, path


@pytest.mark.slow
@pytest.mark.multiprocess
async def test_foreign_page_cannot_use_a_running_server(tmp_path: Path) -> None:
    async with served("serve", "--store", "memory://", folder=tmp_path) as server:
        url = await server.up()
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/coordinator/workers")).status_code == 200
            for headers in (
                {"host": "evil.example"},
                {"origin": "http://evil.example"},
                {"origin": "null"},
                {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
            ):
                body: dict[str, Any] = {"assistant_id": "agent", "input": {}}
                assert (await client.post("/runs", json=body, headers=headers)).status_code == 403
                text = {**headers, "content-type": "text/plain"}
                assert (await client.post("/runs", content=json.dumps(body), headers=text)).status_code == 403
            assert (await client.post("/threads/count", json={})).json() == 0


@pytest.mark.slow
@pytest.mark.multiprocess
async def test_server_without_keys_does_not_listen_on_other_addresses(tmp_path: Path) -> None:
    async with served("serve", "--store", "memory://", "--host", "0.0.0.0", folder=tmp_path) as server:
        _, status = await server.gone()
    assert status == 2
    assert "API keys" in server.output


def test_documented_redis_acl_grants_no_listing() -> None:
    (line,) = [
        one for one in Path("README.md").read_text().splitlines() if one.startswith("ACL SETUSER coordinator")
    ]
    words = line.lower().split()
    assert "-@all" in words
    assert "~rc:*" in words
    assert "&rc:*" in words
    granted = {word[1:] for word in words if word.startswith("+")}
    assert not any(right.startswith("@") for right in granted)
    assert not granted & {
        "keys",
        "scan",
        "psubscribe",
        "flushall",
        "flushdb",
        "config",
        "debug",
        "monitor",
        "acl",
    }
