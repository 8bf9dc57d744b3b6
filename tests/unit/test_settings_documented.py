"""The guide to settings has every one of them, with its default and its meaning, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from coordinator.gateway.settings import GatewaySettings
from coordinator.settings import Settings

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "settings.md"
ROWS = re.findall(r"^\| `COORDINATOR_.*$", GUIDE.read_text(), re.MULTILINE)


def shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return json.dumps(default) if default else ""
    if isinstance(default, float):
        return f"{default:.10g}"
    return "" if default is None else str(default)


def rows() -> list[str]:
    """As they have to stand in the guide."""
    return [
        f"| `COORDINATOR_{name.upper()}` | {shown(field.get_default(call_default_factory=True))} |"
        f" {field.description} |"
        for kind in (Settings, GatewaySettings)
        for name, field in kind.model_fields.items()
    ]


@pytest.mark.parametrize("row", rows())
def test_it_is_there_as_it_is(row: str) -> None:
    assert row in ROWS


def test_no_other_is_there() -> None:
    assert set(ROWS) == set(rows())
