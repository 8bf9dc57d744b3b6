"""The log lines about failures of one projection: few, whatever the number of threads and of attempts."""

from __future__ import annotations

import logging
from collections.abc import Callable

from stores.projections import RunChange

logger = logging.getLogger(__name__)

INTERVAL = 60.0  # s between two lines about failures


class ProjectionLog:
    """Logs the first failure with its exception, further ones as counts, and the recovery if the failure
    before it was logged. A projection that fails and recovers in turn has at most one line of each kind in
    an interval. `clock` in seconds."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name, self._clock = name, clock
        self._logged_at: float | None = None
        self._count = 0
        """Failures since the last line about them."""
        self._failing_since: float | None = None
        self._total = 0
        """Failures since the projection worked."""
        self._shown = False
        """Whether a line was logged since then."""

    def failed(self, change: RunChange, error: Exception, *, waiting: int) -> None:
        """`waiting`: the number of threads whose changes wait after a failure."""
        now = self._clock()
        if self._failing_since is None:
            self._failing_since, self._total, self._shown = now, 0, False
        self._count, self._total = self._count + 1, self._total + 1
        if self._logged_at is not None and now - self._logged_at < INTERVAL:
            return
        which = f"change {change.seq} of run {change.run_id!r} (attempt {change.attempt})"
        if self._shown and self._logged_at is not None:
            logger.warning(
                "projection %r has failed %d times in the last %.0f s, changes of %d threads wait; the last"
                " failure was that of %s: %r",
                self._name,
                self._count,
                now - self._logged_at,
                waiting,
                which,
                f"{type(error).__name__}: {error}"[:1000],
            )
        else:
            logger.warning(
                "projection %r could not apply %s: it is called again after 1, 2, 4, ... s, and later changes"
                " of the thread wait. Further failures are counted in one line every %.0f s",
                self._name,
                which,
                INTERVAL,
                exc_info=error,
            )
        self._logged_at, self._count, self._shown = now, 0, True

    def works(self) -> None:
        """No change waits after a failure of this worker. Idempotent."""
        if self._failing_since is None:
            return
        seconds, self._failing_since = self._clock() - self._failing_since, None
        if self._shown:
            logger.info(
                "projection %r works again: it has failed %d times in %.1f s, and no change waits any more"
                " after a failure of this worker",
                self._name,
                self._total,
                seconds,
            )
