"""Assistants that gateways under test offer, besides the demo."""

from __future__ import annotations

from typing import Any

from coordinator.assistants.demo import agent

AGENTS: dict[str, Any] = {"agent": agent}
