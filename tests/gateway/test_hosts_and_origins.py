"""A web page must not control a local server: not by DNS rebinding, by an origin, an image or a form."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from coordinator import RunManager
from coordinator.gateway import GatewaySettings, create_gateway
from coordinator.gateway.authority import Authority, parse_authority, parse_origin
from coordinator.gateway.caller import Role
from coordinator.gateway.middleware.hosts import Names
from coordinator.gateway.middleware.origins import Pages, RefusedOrigins
from tests.support.asgi import key_for, serving

URL = "/coordinator/workers"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost", "localhost", None),
        ("LocalHost:2024", "localhost", 2024),
        ("localhost.", "localhost", None),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]:2024", "::1", 2024),
        ("[0:0:0:0:0:0:0:1]", "::1", None),
        ("[::ffff:127.0.0.1]", "127.0.0.1", None),
        ("api.example.com:", "api.example.com", None),
        ("web_1", "web_1", None),
    ],
)
def test_authorities_are_canonicalised(text: str, host: str, port: int | None) -> None:
    assert parse_authority(text) == Authority(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":2024",
        "localhost:0",
        "localhost:65536",
        "localhost:x",
        "localhost:20:24",
        "localhost:+80",
        "user@localhost",
        "localhost@evil.example",
        "localhost/",
        "localhost#",
        "localhost evil",
        "localhost,evil.example",
        "localhost\x00",
        "[::1",
        "::1",
        "[::1]2024",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "127.1",
        "0x7f.0.0.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "127.0.0.1.",
        "localhost..",
        ".localhost",
        "ⓛocalhost",
        "a" * 300,
    ],
)
def test_ambiguous_authority_is_refused(text: str) -> None:
    authority = parse_authority(text)
    assert authority is None or authority.host == "127.0.0.1"  # a trailing dot does not change the address


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example:2024",
        "169.254.169.254",
        "192.168.1.7:2024",
        "[2001:db8::1]",
        "0.0.0.0",
        "",
        "localhost@evil.example",
    ],
)
async def test_a_foreign_host_is_refused(host: str) -> None:
    async with serving() as (_, client):
        answer = await client.get("/ok", headers={"host": host})
    assert answer.status_code in (400, 403)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9", "localhost.", "127.0.0.1:2024", "127.8.8.8", "[::1]:2024"]
)
async def test_loopback_hosts_are_served_at_any_port(host: str) -> None:
    async with serving() as (_, client):
        assert (await client.get("/ok", headers={"host": host})).status_code == 200


async def test_missing_and_repeated_host_headers_are_refused() -> None:
    async with serving() as (gateway, _):
        transport = httpx.ASGITransport(gateway)
        for hosts in ([], ["localhost", "localhost"], ["localhost", "evil.example"]):
            request = httpx.Request("GET", "http://localhost/ok")
            request.headers = httpx.Headers([("host", host) for host in hosts])
            answer = await transport.handle_async_request(request)
            assert answer.status_code == 400


@pytest.mark.parametrize(
    ("allowed", "host", "included"),
    [
        (("api.example.com",), "api.example.com", True),
        (("API.example.com.",), "api.example.com", True),
        (("api.example.com",), "x.api.example.com", False),
        (("*.example.com",), "api.example.com", True),
        (("*.example.com",), "example.com", False),
        (("*.example.com",), "evilexample.com", False),
        (("*",), "whatever", True),
        (("10.0.0.1",), "10.0.0.1", True),
        (("::2",), "[::2]", True),
        ((), "10.0.0.1", False),
    ],
)
def test_allowed_hosts_are_served(allowed: tuple[str, ...], host: str, included: bool) -> None:
    authority = parse_authority(host)
    assert authority is not None
    assert Names(allowed, any_address=False).include(authority) is included


GUARDS: list[tuple[dict[str, str], int, str, dict[str, str]]] = [
    ({"host": "a b"}, 400, "one Host header", {}),
    ({"host": "evil.example"}, 403, "does not serve the host", {}),
    ({"origin": "http://evil.example"}, 403, "origin is not allowed", {}),
    ({"x-api-key": "unknown"}, 401, "no valid API key", {"www-authenticate": "Bearer"}),
    ({}, 429, "too many requests", {"retry-after": "100"}),
    ({"content-length": "5000"}, 413, "larger than 4096 bytes", {"connection": "close"}),
]
"""What each guard refuses, in their order: headers, and status, text and headers of the refusal."""


@pytest.mark.parametrize("first", range(len(GUARDS)))
async def test_first_guard_that_objects_refuses(first: int, tmp_path: Path) -> None:
    """The request gives a reason to this guard and to all of those behind it."""
    sent = {**key_for(tmp_path / "keys", Role.admin), "host": "localhost"}
    for headers, *_ in reversed(GUARDS[first:]):
        sent |= headers
    _, status, text, expected = GUARDS[first]
    rate = None if status == 413 else 0.01
    async with serving(api_keys=tmp_path / "keys", max_body_bytes=4096, rate_limit=rate) as (_, client):
        if status == 429:
            await client.post("/threads", headers=sent, content=b"x" * 5000)
        answer = await client.post("/threads", headers=sent, content=b"x" * 5000)
    assert (answer.status_code, text in answer.json()["detail"]) == (status, True)
    assert expected.items() <= dict(answer.headers).items()


@pytest.mark.parametrize("host", ["localhost", "evil.example", "a b", "x" * 5000])
async def test_repeated_host_is_judged_as_the_first_time(host: str) -> None:
    async with serving() as (_, client):
        answers = [await client.get("/ok", headers={"host": host}) for _ in range(3)]
    assert len({(answer.status_code, answer.text) for answer in answers}) == 1
    assert (answers[0].status_code == 200) is (host == "localhost")


async def test_with_keys_hosts_that_are_ip_addresses_are_served(tmp_path: Path) -> None:
    key = key_for(tmp_path / "keys", Role.admin)
    async with serving(api_keys=tmp_path / "keys", headers=key, host="0.0.0.0") as (_, client):
        assert (await client.get(URL, headers={"host": "192.168.1.7"})).status_code == 200
        assert (await client.get(URL, headers={"host": "evil.example"})).status_code == 403


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://localhost.evil.example",
        "http://localhost:3000",
        "https://localhost:2025",
        "http://localhost",
        "http://127.0.0.1:2024",
        "null",
        "",
        "http://localhost:2024@evil.example",
        "http://localhost:2024/",
        "file://",
        "chrome-extension://abcdef",
        "http://localhost:2024 http://evil.example",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_a_foreign_origin_is_refused(origin: str, method: str) -> None:
    async with serving() as (_, client):
        answer = await client.request(method, "/ok", headers={"origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["http://localhost:2024", "https://LOCALHOST:2024"])
async def test_pages_of_the_server_itself_may_call(origin: str) -> None:
    async with serving() as (_, client):
        assert (await client.get("/ok", headers={"origin": origin})).status_code == 200


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://a.example", "a.example", True),
        ("http://a.example", "a.example:80", True),
        ("https://a.example", "a.example", True),
        ("https://a.example:443", "a.example", True),
        ("https://a.example", "a.example:80", False),
        ("http://a.example:8080", "a.example", False),
        ("http://[::1]:5", "[0::1]:5", True),
        ("http://b.example", "a.example", False),
    ],
)
def test_same_origin_is_compared_by_host_and_port(origin: str, host: str, same: bool) -> None:
    parsed, authority = parse_origin(origin), parse_authority(host)
    assert parsed is not None
    assert authority is not None
    assert parsed.of_host(authority) is same


@pytest.mark.parametrize(
    ("allowed", "origin", "included"),
    [
        (("https://app.example.com",), "https://app.example.com", True),
        (("https://app.example.com/",), "https://APP.example.com", True),
        (("https://app.example.com",), "http://app.example.com", False),
        (("https://app.example.com",), "https://app.example.com.evil.example", False),
        (("http://localhost:*",), "http://localhost:3000", True),
        (("http://localhost:*",), "http://localhost", True),
        (("http://localhost:*",), "http://localhost:3000.evil.example", False),
        (("http://localhost:*",), "http://localhostx:3000", False),
        (("http://localhost:*", "https://app.example:*"), "http://localhost:3000", True),
        (("http://localhost:*", "https://app.example:*"), "https://app.example:8443", True),
        (("http://localhost:*", "https://app.example:*"), "http://app.example:8443", False),
        (("*",), "https://anything.example", True),
        (("*",), "null", False),
    ],
)
def test_allowed_origins_may_call(allowed: tuple[str, ...], origin: str, included: bool) -> None:
    assert Pages(allowed).include(origin) is included


async def test_each_refused_origin_is_logged_once_with_the_setting_that_allows_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as (_, client):
        for origin in ("http://localhost:5173", "http://localhost:5173", "http://evil.example\x1b[2J"):
            answer = await client.get("/ok", headers={"origin": origin})
            assert answer.status_code == 403
    lines = [record.getMessage() for record in caplog.records if "refused a request" in record.getMessage()]
    assert len(lines) == 2
    assert (
        "--cors-origin http://localhost:5173, or COORDINATOR_CORS_ORIGINS=http://localhost:5173" in lines[0]
    )
    assert lines[1].isprintable()
    assert "evil" not in lines[1].partition("To allow")[2]


async def test_log_lines_about_refused_origins_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as (_, client):
        for number in range(RefusedOrigins.LINES + 20):
            await client.get("/ok", headers={"origin": f"http://{number}.example/{'x' * 1000}"})
    lines = [record.getMessage() for record in caplog.records if "origin" in record.getMessage()]
    assert len(lines) == RefusedOrigins.LINES + 1
    assert max(map(len, lines)) < 1000


@pytest.mark.parametrize("entry", ["app.example.com", "null", "https://a.example/x", "ftp://a.example", ""])
def test_invalid_origin_fails_the_start(entry: str) -> None:
    with pytest.raises(ValueError, match="not an origin"):
        GatewaySettings(cors_origins=(entry,))


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_embedded_cross_site_requests_are_refused(site: str) -> None:
    """For example an image whose URL is a stream that cancels its run at a disconnect."""
    async with serving() as (_, client):
        for path in ("/ok", URL, "/docs"):
            headers = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
            assert (await client.get(path, headers=headers)).status_code == 403


async def test_cross_site_link_reaches_only_public_pages() -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    async with serving() as (_, client):
        assert (await client.get("/docs", headers=link)).status_code == 200
        assert (await client.get(URL, headers=link)).status_code == 403
        typed = {**link, "sec-fetch-site": "none"}
        assert (await client.get(URL, headers=typed)).status_code == 200


async def test_preflight_needs_no_key_and_responses_expose_headers(tmp_path: Path) -> None:
    key = key_for(tmp_path / "keys", Role.admin)
    page = {"origin": "https://app.example.com"}
    request_headers = {
        **page,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,x-api-key,last-event-id",
    }
    async with serving(api_keys=tmp_path / "keys", cors_origins=["https://app.example.com"]) as (_, client):
        preflight = await client.options("/threads", headers=request_headers)
        served = await client.get(URL, headers={**page, **key})
        refused = await client.get(URL, headers=page)
        foreign = await client.options(
            "/threads", headers={**request_headers, "origin": "https://evil.example"}
        )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "x-api-key" in preflight.headers["access-control-allow-headers"]
    for answer in (served, refused):
        assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
        shown = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert {
            "content-location",
            "location",
            "x-pagination-total",
            "x-pagination-next",
            "x-request-id",
            "retry-after",
        } <= set(shown)
        assert "access-control-allow-credentials" not in answer.headers
    assert (served.status_code, refused.status_code) == (200, 401)
    assert foreign.status_code in (400, 403)
    assert "access-control-allow-origin" not in foreign.headers


@pytest.mark.parametrize(
    ("headers", "keyed", "reached"),
    [
        ({"host": "evil.example"}, True, False),
        ({"origin": "http://evil.example"}, True, False),
        ({"origin": "null"}, True, False),
        ({}, False, False),
        ({}, True, True),
    ],
)
def test_websocket_passes_the_same_middleware(
    headers: dict[str, str], keyed: bool, reached: bool, tmp_path: Path
) -> None:
    """An added route is behind the middleware, also if it is a WebSocket."""
    key = key_for(tmp_path / "keys", Role.admin)
    gateway = create_gateway(RunManager(), settings=GatewaySettings(api_keys=tmp_path / "keys"))

    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("reached")

    gateway.add_api_websocket_route("/added", echo)
    sent = {"host": "localhost", **(key if keyed else {}), **headers}
    with TestClient(gateway, base_url="http://localhost:2024") as client:
        if reached:
            with client.websocket_connect("/added", headers=sent) as socket:
                assert socket.receive_text() == "reached"
        else:
            with pytest.raises(WebSocketDisconnect), client.websocket_connect("/added", headers=sent):
                pass


@pytest.mark.parametrize(
    "path",
    [
        "/threads/..%2f..%2fok",
        "/threads/%2e%2e/ok",
        "/threads/../ok",
        "/threads//ok",
        "//ok",
        "/ok%00",
        "/%5cok",
        "/./ok",
        "/ok/.",
        "/threads/a%2fruns",
        "/ok%0d%0aset-cookie:x",
    ],
)
async def test_ambiguous_path_is_not_found(path: str) -> None:
    async with serving() as (gateway, _):
        scope_path = httpx.URL(f"http://localhost{path}")
        request = httpx.Request("GET", scope_path)
        # httpx normalises paths; the server must receive this one unchanged.
        request.url = _Raw(path)
        answer = await httpx.ASGITransport(gateway).handle_async_request(request)
    assert answer.status_code == 404


class _Raw(httpx.URL):
    def __init__(self, path: str) -> None:
        super().__init__("http://localhost/")
        self._path = path

    @property
    def path(self) -> str:
        from urllib.parse import unquote

        return unquote(self._path)

    @property
    def raw_path(self) -> bytes:
        return self._path.encode()
