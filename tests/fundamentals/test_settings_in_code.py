"""Settings that are passed to `open_coordinator` or come from variables, also mistyped ones."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from coordinator import InvalidArgument, RunManager, open_coordinator
from coordinator.gateway.settings import GatewaySettings
from coordinator.settings import Settings
from coordinator.variables import OF_GATEWAY
from coordinator.webhooks.settings import WebhookSettings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lease_tll": 20}, "lease_tll: is not a setting: did you mean lease_ttl?"),
        ({"assistant": {}}, "assistant: is not a setting: did you mean assistants?"),
        ({"qqqq": 1}, "qqqq: is not a setting: docs/guides/settings.md lists all settings"),
        ({"webhook_port": [1]}, "webhook_port: is not a setting: did you mean webhook_ports?"),
        ({"cors_origins": "x"}, "cors_origins: is a setting of the gateway: pass it to create_gateway in"),
        ({"lease_ttl": -1}, "lease_ttl: Input should be greater than 0"),
        ({"webhook_attempts": 0}, "webhook_attempts: Input should be greater than or equal to 1"),
        ({"webhook_secret": "whsec_?"}, "webhook_secret: "),
        ({"lease_ttl": 5, "renew": 5}, "lease_ttl, lease_margin, renew: lease_ttl - lease_margin must be"),
    ],
)
async def test_wrong_setting_is_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        async with open_coordinator("memory://", **given):
            pass
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(("name", "value"), [("LEASE_TTL", "long"), ("WEBHOOK_PORTS", "https")])
async def test_wrong_variable_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"COORDINATOR_{name}", value)
    with pytest.raises(InvalidArgument, match=f"COORDINATOR_{name}") as refused:
        async with open_coordinator("memory://", deliver_webhooks=True):
            pass
    assert value not in str(refused.value)


async def test_settings_in_code_complete_a_settings_object() -> None:
    class Kept(RunManager):
        def __init__(self, *given: Any, settings: Settings, **named: Any) -> None:
            super().__init__(*given, settings=settings, **named)
            self.given = settings

    opened = open_coordinator("memory://", settings=Settings(tick=0.3), lease_ttl=20, manager_class=Kept)
    async with opened as manager:
        assert isinstance(manager, Kept)
        assert (manager.given.tick, manager.given.lease_ttl) == (0.3, 20)


async def test_mistyped_variable_is_logged_once_without_its_value(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("COORDINATOR_LEASE_TTLL", "secret")
    monkeypatch.setenv("COORDINATOR_CORS_ORIGINS", "https://a.example.com")  # one of the gateway
    with caplog.at_level(logging.WARNING, "coordinator.variables"):
        async with open_coordinator("memory://", settings=Settings()):
            pass
        assert caplog.messages == []
        for _ in range(2):
            async with open_coordinator("memory://"):
                pass
    [line] = caplog.messages
    assert line == (
        "variable COORDINATOR_LEASE_TTLL is not a setting and has no effect: did you mean"
        " COORDINATOR_LEASE_TTL?"
    )


def test_names_of_the_settings_of_the_gateway() -> None:
    assert GatewaySettings.model_fields.keys() - WebhookSettings.model_fields.keys() == OF_GATEWAY
    assert all(name.startswith("webhook_") for name in WebhookSettings.model_fields)
    assert not any(name.startswith("webhook_") for name in Settings.model_fields)
