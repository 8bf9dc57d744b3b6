"""What every part of the facade works on."""

from __future__ import annotations

from coordinator.assembly import Assembly
from stores.base import CoordinationStore


class Facade:
    """Methods check their arguments and hand on to a collaborator; they decide nothing.

    A manager lives in one event loop, that of its first call; see `stores.event_loop`."""

    def __init__(self, parts: Assembly) -> None:
        self._anywhere = parts
        """For what only reads or sets a value, which may be done from any thread."""

    @property
    def _parts(self) -> Assembly:
        """Raises WrongEventLoop: every call but those that use `_anywhere` comes past here."""
        self._anywhere.home.check()
        return self._anywhere

    @property
    def _store(self) -> CoordinationStore:
        return self._parts.store
