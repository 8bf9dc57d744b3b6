"""The client behind a proxy: forwarded headers of trusted proxies are used, those of clients are not."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.gateway import GatewaySettings
from coordinator.gateway.middleware.proxies import Forwarded, Proxies

PROXIES = Proxies(("10.0.0.7", "172.16.0.0/12", "2001:db8::/32"))


async def seen_from(peer: str | None, *forwarded: str, proto: str | None = None) -> tuple[Any, str]:
    """The client and the scheme that the app receives."""
    received: list[tuple[Any, str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        received.append((scope["client"] and scope["client"][0], scope["scheme"]))

    headers = [(b"x-forwarded-for", one.encode("latin-1")) for one in forwarded]
    if proto is not None:
        headers.append((b"x-forwarded-proto", proto.encode()))
    client = None if peer is None else (peer, 5000)
    scope: Any = {"type": "http", "client": client, "scheme": "http", "headers": headers}
    nothing: Any = None
    await Forwarded(app, PROXIES)(scope, nothing, nothing)
    return received[0]


@pytest.mark.parametrize("peer", ["127.0.0.1", "192.0.2.9", "10.0.0.8", "::1", None])
async def test_forwarded_headers_of_untrusted_clients_are_ignored(peer: str | None) -> None:
    assert await seen_from(peer, "6.6.6.6", proto="https") == (peer, "http")


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (("192.0.2.9",), "192.0.2.9"),
        (("192.0.2.9:4711",), "192.0.2.9"),
        (("[2001:470::1]:80",), "2001:470::1"),
        (("2001:470::1",), "2001:470::1"),
        (("6.6.6.6, 192.0.2.9",), "192.0.2.9"),
        (("6.6.6.6", "192.0.2.9, 172.17.0.2"), "192.0.2.9"),
        (("172.17.0.3, 172.17.0.2",), "172.17.0.3"),
        (("192.0.2.9, 6.6.6.6 user=admin key=1",), "10.0.0.7"),
        (("6.6.6.6 user=admin, 172.17.0.2",), "172.17.0.2"),
        (("unknown",), "10.0.0.7"),
        (("",), "10.0.0.7"),
        ((), "10.0.0.7"),
        (("192.0.2.9:4711 x",), "10.0.0.7"),
        (("1.2.3.4\x1b[31m",), "10.0.0.7"),
    ],
)
async def test_last_untrusted_address_is_the_client(forwarded: tuple[str, ...], client: str) -> None:
    assert (await seen_from("10.0.0.7", *forwarded))[0] == client


async def test_scheme_comes_from_a_trusted_proxy() -> None:
    assert (await seen_from("10.0.0.7", proto="https"))[1] == "https"
    assert (await seen_from("::ffff:10.0.0.7", proto="https"))[1] == "https"
    assert (await seen_from("10.0.0.7", proto="gopher"))[1] == "http"


def test_invalid_network_in_trusted_proxies_is_refused() -> None:
    assert GatewaySettings(trusted_proxies="10.0.0.7, 172.16.0.0/12").trusted_proxies == (  # type: ignore[arg-type]  # settings parse a text
        "10.0.0.7",
        "172.16.0.0/12",
    )
    with pytest.raises(ValueError, match=r"proxy\.example"):
        GatewaySettings(trusted_proxies=("proxy.example",))
