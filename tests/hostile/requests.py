"""A hostile request: its bytes, from a seed and a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple, cast
from urllib.parse import quote

from tests.hostile.values import NUMBERS, RAW, TEXTS, encoded, value

HUGE = 10 << 20


class Operation(NamedTuple):
    """An operation of the OpenAPI document."""

    method: str
    path: str


@dataclass(frozen=True)
class Known:
    """Existing resources: requests with their ids pass the first checks and reach deeper code."""

    operations: Sequence[Operation]
    host: str
    key: str
    thread_id: str
    run_id: str


class Hostile(NamedTuple):
    kind: str
    sent: bytes


RUN: dict[str, Any] = {"assistant_id": "agent", "input": {"steps": 1}}

BODIES: dict[str, Any] = {
    "runs": {
        **RUN,
        "metadata": {"a": 1},
        "config": {"tags": ["a"], "recursion_limit": 5, "configurable": {"x": 1}},
        "stream_mode": ["values"],
        "multitask_strategy": "enqueue",
        "on_disconnect": "cancel",
        "if_not_exists": "create",
        "after_seconds": 0,
        "interrupt_before": ["a"],
        "command": {"resume": 1, "goto": "a", "update": {}},
        "checkpoint": {"checkpoint_id": "c", "checkpoint_ns": "", "checkpoint_map": {}},
        "webhook": "https://example.com/",
        "durability": "async",
        "feedback_keys": ["a"],
        "schedule": "* * * * *",
    },
    "cancel": {"status": "all"},
    "batch": [RUN, RUN],
    "search": {
        "metadata": {"a": 1},
        "values": {"a": 1},
        "ids": ["00000000-0000-0000-0000-000000000000"],
        "status": "idle",
        "limit": 10,
        "offset": 0,
        "sort_by": "created_at",
        "sort_order": "desc",
        "select": ["thread_id"],
        "extract": {"a": "values.a[0].b"},
    },
    "state": {"values": {"a": 1}, "as_node": "a", "checkpoint": {"checkpoint_id": "c"}},
    "history": {"limit": 1, "before": "c", "metadata": {}, "select": ["values"]},
    "threads": {
        "metadata": {"a": 1},
        "if_exists": "do_nothing",
        "ttl": {"ttl": 5, "strategy": "delete"},
        "supersteps": [{"updates": [{"values": {}, "as_node": "a"}]}],
    },
    "drain": {"epoch": 10**6},
}

QUERIES = (
    "limit", "offset", "status", "select", "wait", "action", "cancel_on_disconnect", "stream_mode", "include",
    "subgraphs", "all", "x",
)  # fmt: skip

HEADERS: tuple[bytes, ...] = (
    b"Last-Event-ID: -1", b"Last-Event-ID: 99999999999999999999-1", b"Last-Event-ID: \xff",
    b"Last-Event-ID: $",
    b"Idempotency-Key: " + b"k" * 300, b"Idempotency-Key: \xf0\x9f", b"Idempotency-Key: ",
    b"Prefer: return=minimal, return=minimal", b"X-Request-Id: a\tb", b"X-Request-Id: \x80",
    b"X-Forwarded-Host: evil.example", b"X-Forwarded-For: 127.0.0.1, ::1", b"X-HTTP-Method-Override: DELETE",
    b"X-Original-URL: /metrics", b"X-Rewrite-URL: /metrics", b"Forwarded: for=127.0.0.1;host=evil.example",
    b"Content-Encoding: gzip", b"Accept-Encoding: *;q=0", b"Range: bytes=0-0,1-1,2-2", b"If-None-Match: *",
    b"Cookie: " + b"a=b; " * 1000, b"X-Big: " + b"a" * 60_000, b"Upgrade: websocket", b"Upgrade: h2c",
    b"Expect: 100-continue", b"Expect: 200-ok", b"Origin: null", b"Origin: http://evil.example",
    b"Sec-Fetch-Site: cross-site", b"Authorization: Bearer x", b"Authorization: Basic \xff", b"X-Api-Key: x",
    b"X-Api-Key: \xff\xfe", b"Access-Control-Request-Method: DELETE", b"TE: trailers, deflate",
    b"Accept: application/openmetrics-text; version=x", b"Traceparent: 00-xyz",
)  # fmt: skip

SMUGGLED: tuple[bytes, ...] = (
    b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Content-Length: 5\r\nContent-Length: 6",
    b"Content-Length: 5, 6",
    b"Content-Length: -1",
    b"Content-Length: +5",
    b"Content-Length: 0x5",
    b"Content-Length: 99999999999999999999999",
    b"Content-Length: \xb2",
    b"Content-Length:",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: chunked, gzip",
    b"Transfer-Encoding : chunked",
    b"X: a\r\n folded",
    b"X: a\nX-Api-Key: b",
    b"X: a\x00b",
    b"X\x00: a",
    b": nameless",
    b"no colon at all",
    b"Host: evil.example",
    b"Host: localhost\r\nHost: localhost",
    b"Connection: close, x-api-key",
)

LINES: tuple[bytes, ...] = (
    b"GET /ok", b"GET  /ok HTTP/1.1", b"GET /ok HTTP/9.9", b"GET /ok HTTP/1.1 x", b"\r\n\r\nGET /ok HTTP/1.1",
    b"get /ok HTTP/1.1", b"G\x00T /ok HTTP/1.1", b"PRI * HTTP/2.0", b"CONNECT 127.0.0.1:22 HTTP/1.1",
    b"OPTIONS * HTTP/1.1", b"GET http://evil.example/ok HTTP/1.1", b"GET //evil.example/ok HTTP/1.1",
    b"GET /ok\x00 HTTP/1.1", b"GET /\xff\xfe HTTP/1.1", b"GET /" + b"a" * 70_000 + b" HTTP/1.1",
    b"TRACE /ok HTTP/1.1", b"DEBUG /ok HTTP/1.1", b"M" * 300 + b" /ok HTTP/1.1", b"GET ok HTTP/1.1",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"*1\r\n$4\r\nPING", b"GET /%zz HTTP/1.1",
    b"GET ? HTTP/1.1",
    b"GET /ok?" + b"a" * 70_000 + b" HTTP/1.1", b"GET /ok#/metrics HTTP/1.1",
)  # fmt: skip

PATHS: tuple[str, ...] = (
    "/threads/%2e%2e/ok", "/threads/..%2f..%2fok", "/../ok", "/./ok", "//ok", "/ok/", "/ok/..",
    "/ok;/metrics",
    "/threads/%00", "/threads/%0a", "/threads/%ff", "/threads/%u0061", "/threads/a%2fruns", "/threads/%5c",
    "/metrics/", "/metrics%20", "/METRICS", "/metrics/ok", "/ok/metrics", "/metrics%3f/ok", "/coordinator",
    "/coordinator/", "/coordinator/health/live/../../workers", "/coordinator/workers/health/live",
    "/docs/../metrics",
    "/static/../../etc/passwd", "/.git/config", "/openapi.json/", "/threads/" + "a" * 8_000,
    "/" + "a/" * 4_000,
)  # fmt: skip


def make(seed: int, number: int, known: Known) -> Hostile:
    """Returns the same bytes for the same seed and number, independent of earlier requests."""
    rng = Random(f"{seed} {number}")
    kind, build = rng.choices(_KINDS, _WEIGHTS)[0]
    return Hostile(kind, build(rng, known))


def _request(
    line: bytes,
    known: Known,
    *headers: bytes,
    body: bytes | None = None,
    key: bool = True,
    length: bool = True,
) -> bytes:
    parts = [
        line,
        b"Host: " + known.host.encode(),
        *([b"X-Api-Key: " + known.key.encode()] if key else []),
        *headers,
    ]
    if body is not None and length:
        parts.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join((*parts, b"Connection: close", b"", body or b""))


def _path(rng: Random, known: Known, operation: Operation, *, tricky: bool) -> str:
    """Fills in existing ids, or hostile texts."""
    path = operation.path
    for name, known_id in (("{thread_id}", known.thread_id), ("{run_id}", known.run_id)):
        path = path.replace(name, quote(rng.choice(TEXTS), safe="") if tricky else known_id)
    while "{" in path:
        begin, end = path.index("{"), path.index("}") + 1
        path = path[:begin] + quote(rng.choice(TEXTS), safe="") + path[end:]
    return path


def _line(method: str, path: str) -> bytes:
    return f"{method} {path} HTTP/1.1".encode()


def _operation(rng: Random, known: Known, *, body: bool = False) -> Operation:
    headers = (
        [one for one in known.operations if one.method in ("POST", "PATCH", "PUT")]
        if body
        else known.operations
    )
    return rng.choice(headers)


_JSON = b"Content-Type: application/json"
_TYPES = (
    *(_JSON,) * 5,
    b"Content-Type: application/json; charset=utf-16",
    b"Content-Type: application/x+json",
    b"Content-Type: text/plain",
    b"Content-Type: multipart/form-data; boundary=x",
    b"Content-Type: \xff",
    b"Content-Type: a/b/c",
)


def _raw_body(rng: Random, known: Known) -> bytes:
    one = _operation(rng, known, body=True)
    kind = rng.choice(_TYPES)
    return _request(
        _line(one.method, _path(rng, known, one, tricky=False)), known, kind, body=rng.choice(RAW)
    )


def _wild_body(rng: Random, known: Known) -> bytes:
    one = _operation(rng, known, body=True)
    body = encoded(value(rng, 4))
    return _request(_line(one.method, _path(rng, known, one, tricky=False)), known, _JSON, body=body)


def _bent_body(rng: Random, known: Known) -> bytes:
    """A valid body with some altered values and keys."""
    one = _operation(rng, known, body=True)
    fitting = next((body for name, body in BODIES.items() if one.path.endswith(name)), BODIES["runs"])
    if isinstance(fitting, list):
        items = cast("list[dict[str, Any]]", fitting)
        body: Any = [_bent(rng, item) for item in items for _ in range(rng.randrange(1, 3))]
    else:
        body = _bent(rng, fitting)
    return _request(_line(one.method, _path(rng, known, one, tricky=False)), known, _JSON, body=encoded(body))


def _bent(rng: Random, body: dict[str, Any]) -> dict[str, Any]:
    bent = {name: one for name, one in body.items() if name == "assistant_id" or rng.random() < 0.5}
    for _ in range(rng.randrange(1, 4)):
        bent[rng.choice([*body, rng.choice(TEXTS)])] = value(rng)
    return bent


def _tricky_path(rng: Random, known: Known) -> bytes:
    if rng.random() < 0.4:
        return _request(
            _line(rng.choice(("GET", "POST", "DELETE")), rng.choice(PATHS)), known, key=rng.random() < 0.5
        )
    one = _operation(rng, known)
    body = b"{}" if one.method in ("POST", "PATCH") else None
    return _request(_line(one.method, _path(rng, known, one, tricky=True)), known, _JSON, body=body)


def _query(rng: Random, known: Known) -> bytes:
    one = _operation(rng, known)
    values = (*TEXTS, *NUMBERS, '["values"]', '["values",', "[" * 5_000, "true", "success", "a" * 9_000)
    query = "&".join(
        f"{rng.choice(QUERIES)}={quote(rng.choice(values), safe='')}" for _ in range(rng.randrange(1, 6))
    )
    line = _line(one.method, f"{_path(rng, known, one, tricky=False)}?{query}")
    return _request(line, known, _JSON, body=b'{"assistant_id":"agent"}' if one.method == "POST" else None)


def _headers(rng: Random, known: Known) -> bytes:
    one = _operation(rng, known)
    body = encoded(RUN) if one.method == "POST" else None
    chosen = rng.sample(HEADERS, rng.randrange(1, 5))
    line = _line(one.method, _path(rng, known, one, tricky=False))
    return _request(line, known, _JSON, *chosen, body=body, key=rng.random() < 0.8)


def _smuggled(rng: Random, known: Known) -> bytes:
    one = _operation(rng, known)
    line = _line(one.method, _path(rng, known, one, tricky=False))
    second = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    body = rng.choice(
        (
            b"0\r\n\r\n" + second,
            b"{}",
            b"5\r\n{    \r\n0\r\n\r\n",
            b"ffffffffffffffff\r\n",
            b"-1\r\n",
            b"5;a=" + b"b" * 9000,
        )
    )
    return _request(line, known, _JSON, rng.choice(SMUGGLED), body=body, length=False)


def _no_request(rng: Random, known: Known) -> bytes:
    return _request(rng.choice(LINES), known)


def _huge(rng: Random, known: Known) -> bytes:
    one = _operation(rng, known, body=True)
    line = _line(one.method, _path(rng, known, one, tricky=False))
    filler = rng.choice((b'{"a":"' + b"x" * HUGE + b'"}', b"[" + b"1," * (HUGE // 2) + b"1]", b" " * HUGE))
    if rng.random() < 0.5:
        return _request(line, known, _JSON, body=filler)
    chunk = b"%x\r\n" % (1 << 20) + filler[: 1 << 20] + b"\r\n"
    return _request(
        line, known, _JSON, b"Transfer-Encoding: chunked", body=chunk * 10 + b"0\r\n\r\n", length=False
    )


_KINDS: tuple[tuple[str, Callable[[Random, Known], bytes]], ...] = (
    ("raw body", _raw_body),
    ("wild body", _wild_body),
    ("bent body", _bent_body),
    ("path", _tricky_path),
    ("query", _query),
    ("headers", _headers),
    ("smuggled", _smuggled),
    ("no request", _no_request),
    ("huge body", _huge),
)
_WEIGHTS = (16, 16, 24, 14, 12, 8, 6, 3.5, 0.5)
