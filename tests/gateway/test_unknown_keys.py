"""A modifying request with unknown keys or parameters is refused: they may be filters."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import pytest

from coordinator import RunManager
from coordinator.gateway import create_gateway
from coordinator.gateway.wire import unknown_keys
from tests.gateway.conftest import Pair
from tests.gateway.matrix import ROWS, Needs, new_ids
from tests.support.gateways import Served, gateway_settings, new_thread, start_running, status_of

CREATE = {
    ("POST", "/threads"),
    ("POST", "/threads/{thread_id}/copy"),
    ("POST", "/threads/{thread_id}/runs"),
    ("POST", "/threads/{thread_id}/runs/stream"),
    ("POST", "/threads/{thread_id}/runs/wait"),
    ("POST", "/assistants"),
    ("POST", "/runs"),
    ("POST", "/runs/stream"),
    ("POST", "/runs/wait"),
    ("POST", "/runs/batch"),
    ("POST", "/runs/crons"),
    ("POST", "/threads/{thread_id}/runs/crons"),
}
"""These modify no existing data, and newer clients may send further keys. All other bodies refuse them."""
ACT = sorted(
    route for route, row in ROWS.items() if row.needs in (Needs.user, Needs.admin) and route not in CREATE
)


def path_of(path: str) -> str:
    ids = new_ids()
    return path.format(assistant_id="agent", **ids._asdict())


@cache
def described() -> dict[str, Any]:
    """Returns the documented paths. Building the document takes 0.4 s."""
    return create_gateway(RunManager(), settings=gateway_settings({})).openapi()["paths"]


@pytest.mark.parametrize(("method", "path"), ACT, ids=lambda part: part)
async def test_modifying_route_refuses_unknown_keys(one: Served, method: str, path: str) -> None:
    operation: dict[str, Any] = described()[path][method.lower()]
    known = {given["name"] for given in operation.get("parameters", ()) if given["in"] == "query"}
    make = ROWS[method, path].body
    body: dict[str, Any] = {} if make is None else make(new_ids())
    given: dict[str, Any] = {"json": body} if "requestBody" in operation else {}
    answer = await one.raw.request(method, path_of(path), params={"nonsense": "1"}, **given)
    assert answer.status_code == 422
    assert "nonsense" in answer.text
    assert all(name in answer.text for name in known)
    if "requestBody" in operation:
        body = {**body, "nonsense": 1}
        answer = await one.raw.request(method, path_of(path), json=body)
        assert answer.status_code == 422
        (mistake,) = answer.json()["mistakes"]
        assert mistake["type"] == "unknown_key"
        assert "nonsense" in mistake["msg"]
        assert "known: " in mistake["msg"]


async def test_unknown_filter_cancels_nothing(plain: Pair) -> None:
    local, remote = plain
    thread = await new_thread(local.sdk)
    run = await start_running(local.sdk, thread, sleep=60)
    answer = await remote.raw.post("/runs/cancel", json={"status": "all", "metdata": {"team": "red"}})
    assert answer.status_code == 422
    assert "'metdata'" in answer.text
    assert "status" in answer.text
    assert (await remote.raw.post("/runs/cancel?dry_run=1", json={"status": "all"})).status_code == 422
    assert await status_of(local.sdk, thread, run) == "running"


async def test_unknown_key_with_null_is_ignored(one: Served) -> None:
    thread = await new_thread(one.sdk)
    answer = await one.raw.patch(f"/threads/{thread}", json={"metadata": {"a": 1}, "nonsense": None})
    assert answer.status_code == 200


async def test_unknown_keys_of_a_run_are_logged_once(
    one: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logged keys are escaped, truncated and bounded in number."""
    monkeypatch.setattr(unknown_keys, "_logged", set[tuple[str, str]]())
    evil = "\x1b[31m" + "x" * 200
    thread = await new_thread(one.sdk)
    checkpoint = {"thread_id": thread, "checkpoint_ns": ""}
    body = {"assistant_id": "agent", "input": {}, "checkpoint": checkpoint, evil: 1, "newer": 1}
    with caplog.at_level(logging.WARNING, "coordinator.gateway.wire.unknown_keys"):
        for _ in range(2):
            answer = await one.raw.post(f"/threads/{thread}/runs/wait", json=body)
            assert answer.status_code == 200, answer.text
        for at in range(0, 1000, 100):
            many = {str(at + n): n for n in range(100)}
            await one.raw.post("/threads/count", json=many)
    lines = [record.getMessage() for record in caplog.records if record.name == unknown_keys.__name__]
    assert len(lines) == unknown_keys.MAX_LOGGED
    assert len([line for line in lines if "'newer'" in line and "RunCreate" in line]) == 1
    assert all(line.isprintable() and len(line) < 200 for line in lines)
    assert "not logged" in lines[-1]
    assert not any("'thread_id'" in line for line in lines)
