"""Without keys a gateway listens on loopback only; other addresses fail the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.errors import InvalidArgument
from coordinator.gateway import GatewaySettings
from coordinator.gateway.exposure import check_exposure


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert "other machines cannot connect" in check_exposure(GatewaySettings(host=host))


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.1.7", "10.0.0.1", "fe80::1", "169.254.1.1", "no.such.host.invalid"]
)
def test_other_addresses_need_keys(host: str) -> None:
    with pytest.raises(InvalidArgument, match="keys"):
        check_exposure(GatewaySettings(host=host))
    assert check_exposure(GatewaySettings(host=host, api_keys=Path("keys.json"))) == "callers need an API key"
    assert check_exposure(GatewaySettings(host=host), authenticated=True)


@pytest.mark.parametrize("setting", ["allowed_hosts", "cors_origins"])
def test_wildcard_hosts_and_origins_need_keys(setting: str) -> None:
    with pytest.raises(InvalidArgument, match="web page"):
        check_exposure(GatewaySettings.model_validate({setting: ("*",)}))


def test_lists_in_the_environment_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDINATOR_ALLOWED_HOSTS", "a.example, *.b.example")
    monkeypatch.setenv("COORDINATOR_CORS_ORIGINS", "https://a.example,http://localhost:*")
    settings = GatewaySettings()
    assert settings.allowed_hosts == ("a.example", "*.b.example")
    assert settings.cors_origins == ("https://a.example", "http://localhost:*")
