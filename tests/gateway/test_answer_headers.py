"""Each response has headers against content sniffing and framing."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.gateway.caller import Role
from coordinator.gateway.middleware.answer_headers import with_protection
from tests.support.asgi import key_for, serving


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/ok", {}, 200),
        ("GET", "/docs", {}, 200),
        ("GET", "/openapi.json", {}, 200),
        ("GET", "/metrics", {"key": "yes"}, 200),
        ("POST", "/threads", {"key": "yes", "content-type": "application/json"}, 200),
        ("POST", "/threads/search", {"key": "yes"}, 422),
        ("GET", "/threads/x", {}, 401),
        ("GET", "/nowhere", {"key": "yes"}, 404),
        ("DELETE", "/ok", {"key": "yes"}, 405),
        ("GET", "/ok", {"host": "evil.example"}, 403),
        ("GET", "/ok", {"origin": "https://evil.example"}, 403),
    ],
)
async def test_every_response_has_security_headers(
    tmp_path: Path, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    keys = tmp_path / "keys.json"
    key = key_for(keys, Role.admin)
    given = {name: value for name, value in headers.items() if name != "key"} | (
        key if "key" in headers else {}
    )
    body = b'{"limit": "x"}' if path.endswith("search") else b"{}"
    async with serving(api_keys=keys) as (_, client):
        answer = await client.request(method, path, headers=given, content=body if method == "POST" else None)
    assert answer.status_code == status
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers.get_list("x-frame-options") == ["DENY"]
    page = answer.headers.get("content-type", "").startswith("text/html")
    assert ("content-security-policy" in answer.headers) == page


async def test_streams_have_security_headers() -> None:
    async with serving() as (_, client):
        answer = await client.post("/runs/stream", json={"assistant_id": "agent", "input": {"steps": 1}})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_error_responses_have_security_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("on purpose")

    async with serving() as (gateway, client):
        monkeypatch.setattr(gateway.state.services.manager.worker, "fleet", fail)
        answer = await client.get("/coordinator/workers")
    assert answer.status_code == 500
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_policy_of_a_page_is_kept() -> None:
    own = [
        (b"Content-Type", b"text/html; charset=utf-8"),
        (b"Content-Security-Policy", b"default-src 'none'"),
    ]
    protected = with_protection(own)
    assert [value for name, value in protected if name == b"content-security-policy"] == [
        b"default-src 'none'"
    ]
