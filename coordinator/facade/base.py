"""What every part of the facade works on."""

from __future__ import annotations

from coordinator.assembly import Assembly


class Facade:
    """Methods check their arguments and hand on to a collaborator; they decide nothing."""

    def __init__(self, parts: Assembly) -> None:
        self._parts = parts
        self._store, self._notifier = parts.store, parts.notifier
