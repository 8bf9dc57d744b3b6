"""The callbacks of a worker, as notifiers call them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from coordinator.notifier import Connectivity, Signal

_log = logging.getLogger(__name__)


class Callbacks:
    """Logs and suppresses the exceptions of callbacks, because they must not close the transport's
    connection."""

    def __init__(
        self,
        on_signal: Callable[[Signal], None] = lambda _: None,
        on_resync: Callable[[], None] = lambda: None,
        on_connectivity: Callable[[Connectivity], None] = lambda _: None,
    ) -> None:
        self._on_signal = on_signal
        self._on_resync = on_resync
        self._on_connectivity = on_connectivity

    def signal(self, signal: Signal) -> None:
        self._guard(lambda: self._on_signal(signal))

    def resync(self) -> None:
        self._guard(self._on_resync)

    def connectivity(self, connectivity: Connectivity) -> None:
        self._guard(lambda: self._on_connectivity(connectivity))

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # noqa: BLE001 - a callback may raise anything
            _log.exception(
                "A callback of the notifier failed, so this worker may have missed a hint; its next tick"
                " reads the store"
            )
