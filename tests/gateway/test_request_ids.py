"""Every request has an id in its response and log lines, also if it fails; no secret is logged."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from coordinator import RunManager
from coordinator.gateway import create_gateway
from coordinator.gateway.caller import Role
from coordinator.gateway.middleware.envelope import Envelope
from coordinator.gateway.request_id import AddRequestId, request_id
from coordinator.gateway.server import logs
from coordinator.gateway.server.logs import JsonLines, TextLines
from tests.support.asgi import key_for, serving


async def test_exception_during_a_response_is_raised_to_the_server() -> None:
    """The server closes the connection, so that the response is visibly incomplete, and logs the
    exception."""
    sent: list[Message] = []

    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ha", "more_body": True})
        raise RuntimeError("half-way")

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    request: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    with pytest.raises(RuntimeError, match="half-way"):
        await Envelope(half)(request, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


async def test_exception_after_a_response_is_not_raised_to_the_server() -> None:
    """The response is complete, so the server must not close the connection or log the exception again."""

    async def complete(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"whole"})
        raise RuntimeError("logged by its handler")

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    sent: list[Message] = []
    await Envelope(complete)({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
    assert sent[-1]["body"] == b"whole"


@pytest.mark.parametrize("given", ["a", "3f2a-77", "A.b_c:9", "x" * 128])
def test_valid_id_is_kept(given: str) -> None:
    assert request_id(given) == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\nb", "a\x1b[31m", "ä", "a;b", "<script>", None])
def test_invalid_id_is_replaced(given: str | None) -> None:
    made = request_id(given)
    assert made != given
    assert request_id(made) == made


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/ok", {}, 200),
        ("/nowhere", {}, 404),
        ("/threads/x", {}, 422),
        ("/ok", {"host": "evil.example"}, 403),
        ("/ok", {"origin": "null"}, 403),
    ],
)
async def test_every_response_has_the_id(path: str, headers: dict[str, str], status: int) -> None:
    async with serving() as (_, client):
        answer = await client.get(path, headers={"x-request-id": "mine-1", **headers})
        assert (answer.status_code, answer.headers["x-request-id"]) == (status, "mine-1")
        made = await client.get(path, headers=headers)
        assert len(made.headers.get_list("x-request-id")) == 1


async def test_failure_is_a_response_without_traceback_and_one_log_record_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = create_gateway(RunManager())

    @gateway.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError("a secret of the code")

    transport = httpx.ASGITransport(gateway)
    async with (
        gateway.running(),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        answer = await client.get("/broken", headers={"x-request-id": "mine-2"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "mine-2"
    assert set(answer.json()) == {"detail"}
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    failures = [one for one in caplog.records if one.name.startswith("coordinator") and one.exc_info]
    assert len(failures) == 1


async def test_keys_queries_and_forged_lines_are_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("coordinator.gateway.access").setLevel(logging.INFO)
    caplog.handler.addFilter(AddRequestId())
    key = key_for(tmp_path / "keys", Role.admin)
    async with serving(api_keys=tmp_path / "keys") as (_, client):
        for headers in (
            key,
            {"authorization": f"Bearer {key['x-api-key']}"},
            {"x-api-key": "rck_wrong_SECRET"},
        ):
            sent = {**headers, "x-request-id": "mine-3"}
            await client.get("/coordinator/health?token=SECRET", headers=sent)
            await client.get("/x%0aforged", headers=sent)
            webhook = "https://user:SECRET@example.com/hook?key=SECRET"
            await client.post("/threads", content=b'{"metadata": SECRET', headers=sent)
            await client.post("/runs", json={"assistant_id": "no", "webhook": webhook}, headers=sent)
    records = [one for one in caplog.records if one.name.startswith(("coordinator", "stores", "uvicorn"))]
    lines = [caplog.handler.format(record) for record in records]
    lines += [json.dumps(vars(record), default=str) for record in records]
    assert any("mine-3" in line for line in lines)
    for line in lines:
        assert "SECRET" not in line
        assert key["x-api-key"] not in line
    accesses = [record for record in caplog.records if record.name == "coordinator.gateway.access"]
    assert {vars(record)["status"] for record in accesses} >= {200, 401, 404, 422}
    assert {vars(record)["key"] for record in accesses} == {key["x-api-key"].split("_")[1], None}


@pytest.mark.parametrize("form", [TextLines, JsonLines])
async def test_access_log_has_one_line_per_request_with_its_id(
    form: type[TextLines] | type[JsonLines],
) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(AddRequestId())
    handler.setFormatter(form(logs.Who("worker 1")))
    access = logging.getLogger("coordinator.gateway.access")
    access.addHandler(handler)
    access.setLevel(logging.INFO)
    try:
        async with serving() as (_, client):
            await client.get("/ok?secret=1", headers={"x-request-id": "mine-4"})
            await client.get("/x%1b%5b31m%0aforged", headers={"x-request-id": "mine-5"})
    finally:
        access.removeHandler(handler)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "mine-4" in lines[0]
    assert "secret" not in lines[0]
    assert "\x1b" not in lines[1]
    if form is JsonLines:
        record = json.loads(lines[0])
        assert (record["request_id"], record["method"], record["path"], record["status"]) == (
            "mine-4",
            "GET",
            "/ok",
            200,
        )


async def test_requests_are_not_observed_by_fastapi_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    lookups: list[None] = []
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: lookups.append(None))
    async with serving() as (_, client):
        assert (await client.get("/ok")).status_code == 200
    assert lookups == []
