"""Warns of environment variables with the prefix of settings that no setting has, such as mistyped ones."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable

from coordinator.gateway.settings import GatewaySettings
from coordinator.settings import Settings

logger = logging.getLogger("coordinator.serve")

_PREFIX = "COORDINATOR_"
_NOT_OURS = ("COORDINATOR_TEST_", "COORDINATOR_BENCH_")
"""Prefixes that tests and benchmarks use."""


def warn_of_unknown(names: Iterable[str]) -> None:
    """Logs a warning for each of `names` that no setting has. Values are never logged: they may be secret."""
    known = [
        f"{_PREFIX}{field.upper()}" for kind in (Settings, GatewaySettings) for field in kind.model_fields
    ]
    for name in sorted(names):
        if not name.startswith(_PREFIX) or name in known or name.startswith(_NOT_OURS):
            continue
        similar = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {similar[0]}?" if similar else "docs/guides/settings.md lists all settings"
        logger.warning("variable %s is not a setting and has no effect: %s", name, hint)
