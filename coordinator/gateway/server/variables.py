"""Variables of the environment that look like settings and are none: mistyped ones would go unnoticed."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable

from coordinator.gateway.settings import GatewaySettings
from coordinator.settings import Settings

logger = logging.getLogger("coordinator.serve")

_PREFIX = "COORDINATOR_"
_NOT_OURS = ("COORDINATOR_TEST_", "COORDINATOR_BENCH_")
"""Of tests and benchmarks."""


def warn_of_unknown(names: Iterable[str]) -> None:
    """One line for each of the environment's `names` that no setting has. Values are secret, perhaps."""
    known = [
        f"{_PREFIX}{field.upper()}" for kind in (Settings, GatewaySettings) for field in kind.model_fields
    ]
    for name in sorted(names):
        if not name.startswith(_PREFIX) or name in known or name.startswith(_NOT_OURS):
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"is it {near[0]}?" if near else "docs/guides/settings.md has all settings"
        logger.warning("variable %s is no setting and has no effect: %s", name, hint)
