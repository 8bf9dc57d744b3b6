"""Restrictions of a configuration, in addition to those of the settings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coordinator.errors import InvalidArgument
from coordinator.webhooks.deliverer import targets_of
from coordinator.webhooks.document import FIELDS, body
from coordinator.webhooks.policy import WebhookPolicy
from coordinator.webhooks.settings import WebhookSettings
from coordinator.webhooks.targets import TargetRefused

RUN: dict[str, Any] = {
    **dict.fromkeys((*FIELDS, "started_at", "ended_at", "cancel_cause", "interrupts")),
    "run_id": "r",
}


@pytest.mark.parametrize(
    ("policy", "private", "url", "allowed"),
    [
        ({"https": True}, True, "http://localhost:9000/", False),
        ({"https": True}, True, "https://localhost:9000/", True),
        ({"domains": ("example.com",)}, False, "https://example.com/", True),
        ({"domains": ("example.com",)}, False, "https://EXAMPLE.com./", True),
        ({"domains": ("example.com",)}, False, "https://a.example.com/", False),
        ({"domains": ("*.example.com",)}, False, "https://a.b.example.com/", True),
        ({"domains": ("*.example.com",)}, False, "https://example.com/", False),
        ({"domains": ("*.example.com",)}, False, "https://badexample.com/", False),
        ({"domains": ("example.com",)}, False, "https://8.8.8.8/", False),
        ({"ports": frozenset({8443, 9000})}, False, "https://example.com:8443/", True),
        ({"ports": frozenset({8443, 9000})}, False, "https://example.com:9000/", False),
        ({"ports": frozenset({8443, 9000})}, False, "https://example.com/", False),
        ({"ports": frozenset({9000})}, True, "http://localhost:9000/", True),
        ({"ports": frozenset({9000})}, True, "http://localhost:9001/", False),
        ({"max_url_length": 30}, False, "https://example.com/0123456789", True),
        ({"max_url_length": 30}, False, "https://example.com/0123456789a", False),
        ({"max_url_length": 9000}, False, f"https://example.com/{'a' * 3000}", False),
        ({"without_loopback": True}, True, "http://127.0.0.1/", False),
        ({"without_loopback": True}, True, "http://10.0.0.1/", True),
        ({"without_private": True}, True, "http://10.0.0.1/", False),
        ({"without_private": True}, True, "http://[::1]/", True),
        # What the settings forbid stays forbidden.
        ({"domains": ("localhost",)}, False, "https://localhost/", False),
        ({"domains": ("10.0.0.1",)}, False, "https://10.0.0.1/", False),
    ],
)
def test_stricter_rule_decides(policy: dict[str, Any], private: bool, url: str, allowed: bool) -> None:
    targets = targets_of(WebhookSettings(webhook_allow_private=private), WebhookPolicy(**policy))
    if allowed:
        targets.parse(url)
    else:
        with pytest.raises(TargetRefused):
            targets.parse(url)


def test_ports_without_one_in_common_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="allowed_ports: has none of the ports of webhook_ports"):
        targets_of(WebhookSettings(), WebhookPolicy(ports=frozenset({9000})))


def test_only_chosen_fields_are_sent() -> None:
    whole = json.loads(body(RUN, assistant_id="a", now=1.0))
    assert set(whole) == FIELDS
    chosen = json.loads(body(RUN, assistant_id="a", now=1.0, only={"run_id", "values"}))
    assert chosen == {"run_id": "r", "values": None}
