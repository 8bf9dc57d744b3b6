"""URLs of webhooks are checked when a run is admitted in code, as far as that needs no look-up."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator import InvalidArgument, open_coordinator
from coordinator.webhooks.document import without_path

DELIVERED: dict[str, Any] = {"deliver_webhooks": True}


@pytest.mark.parametrize(
    ("url", "settings", "why"),
    [
        ("notaurl", {}, "must be a URL with http or https and a host"),
        ("ftp://example.com/", {}, "must be a URL with http or https and a host"),
        ("https:///path", {}, "must be a URL with http or https and a host"),
        ("https://example.com:port/", {}, "must be a URL with http or https and a host"),
        ("http://127.0.0.1:8799/x", DELIVERED, "must begin with https://"),
        ("https://10.0.0.1/x", DELIVERED, "must not go to a loopback or private address"),
        ("https://example.com:99/x", DELIVERED, "must use one of these ports: 443, 8443"),
        ("http://169.254.169.254/", {**DELIVERED, "webhook_allow_private": True}, "public unicast address"),
    ],
)
async def test_webhook_that_can_never_be_sent_is_refused(
    url: str, settings: dict[str, Any], why: str
) -> None:
    async with open_coordinator("memory://", **settings) as manager:
        with pytest.raises(InvalidArgument, match=why) as refused:
            await manager.create_or_reject("t", webhook=url)
        assert refused.value.argument == "webhook"
        assert await manager.get("t") is None
        assert await manager.list_by_thread("t") == []


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("http://127.0.0.1:8799/x", {}),  # another worker, with other settings, may deliver it
        ("HTTPS://example.com", {}),
        ("http://127.0.0.1:8799/x", {**DELIVERED, "webhook_allow_private": True}),
        ("https://example.com:99/x", {**DELIVERED, "webhook_ports": [99]}),
    ],
)
async def test_webhook_that_may_be_sent_is_admitted(url: str, settings: dict[str, Any]) -> None:
    async with open_coordinator("memory://", **settings) as manager:
        record = await manager.create_or_reject("t", webhook=url)
        assert [row.url for row in await manager.webhooks.search(run_id=record.run_id)] == [url]


def test_url_without_scheme_or_host_is_not_shown_in_lists() -> None:
    assert without_path("notaurl") == without_path("https:///secret") == without_path("https://[") == "…"
    assert without_path("https://user:secret@example.com:8443/secret") == "https://example.com:8443/…"
