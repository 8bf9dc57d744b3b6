"""`manager.webhooks`: webhooks of runs, for operators and for the worker that delivers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coordinator import arguments as check
from coordinator.errors import InvalidArgument
from coordinator.runs.incarnation import Incarnation
from coordinator.telemetry import Telemetry
from coordinator.telemetry.events import WebhookDelivered, WebhookFailed
from stores.base import CoordinationStore
from stores.event_loop import HomeLoop
from stores.states import WebhookState
from stores.webhooks import ClaimedWebhook, Shares, WebhookReport, WebhookRow, WebhookStore


class Webhooks:
    """Raises InvalidArgument if the store keeps no webhooks.

    `user_id` restricts a call to webhooks of that user's runs.
    """

    def __init__(
        self, store: CoordinationStore, *, home: HomeLoop, worker: Incarnation, telemetry: Telemetry
    ) -> None:
        self._store, self._home, self._worker, self._telemetry = store, home, worker, telemetry
        self._keeping = store if isinstance(store, WebhookStore) else None
        self._refuse: Callable[[str], object] | None = None

    def restrict(self, refuse: Callable[[str], object]) -> None:
        """Set by the deliverer of this process: `refuse` raises InvalidArgument for a URL that it would never
        send to. Called at each admission, it must do no I/O."""
        self._refuse = refuse

    @property
    def kept(self) -> bool:
        """Whether the store keeps webhooks, so that a run may have one."""
        return self._keeping is not None

    @property
    def _kept(self) -> WebhookStore:
        self._home.check()
        if self._keeping is None:
            raise InvalidArgument("webhook", f"{self._store.url} keeps none")
        return self._keeping

    def checked(self, url: str | None) -> str | None:
        """The validated URL; None = no webhook. The policy for targets is that of the deliverer of this
        process, if it has one; another worker may have another policy. The addresses of its host are checked
        before each attempt. Raises InvalidArgument."""
        if url is None:
            return None
        if not self.kept:
            raise InvalidArgument("webhook", f"{self._store.url} keeps none")
        checked = check.check_url("webhook", url)
        if self._refuse is not None:
            self._refuse(checked)
        return checked

    # -- for operators

    async def search(
        self,
        *,
        states: Sequence[str] = (),
        run_id: str | None = None,
        user_id: str | None = None,
        limit: int = 100,
    ) -> list[WebhookRow]:
        """Newest first. Their URLs may carry secrets."""
        return await self._kept.webhooks(
            states=check.check_members("states", states, WebhookState),
            run_id=check.check_optional_id("run_id", run_id),
            user_id=check.check_optional_id("user_id", user_id),
            limit=check.check_limit("limit", limit),
        )

    async def count(self, *, states: Sequence[str] = (), user_id: str | None = None) -> int:
        """The number of webhooks that match."""
        return await self._kept.count_webhooks(
            states=check.check_members("states", states, WebhookState),
            user_id=check.check_optional_id("user_id", user_id),
        )

    async def revive(self, run_ids: Sequence[str] | None = None, *, user_id: str | None = None) -> list[str]:
        """Make webhooks that were given up due now; None = all. Returns the ids of their runs."""
        return await self._kept.revive_webhooks(
            _checked(run_ids), user_id=check.check_optional_id("user_id", user_id)
        )

    async def stop(self, run_ids: Sequence[str] | None = None, *, user_id: str | None = None) -> list[str]:
        """Give up webhooks that wait for the end of their run, or are due; None = all. An attempt in flight
        is completed. Returns the ids of their runs."""
        return await self._kept.stop_webhooks(
            _checked(run_ids), user_id=check.check_optional_id("user_id", user_id)
        )

    # -- for the worker that delivers them

    async def next_due(self) -> float | None:
        """Seconds until a webhook can be claimed, at least 0. None if none is due, or if the store keeps no
        webhooks."""
        return await self._kept.next_webhook() if self.kept else None

    async def claim(self, *, lease: float, limit: int, shares: Shares | None = None) -> list[ClaimedWebhook]:
        """Claim due webhooks for this worker, for `lease` (s); with `shares`, at most its share of each user.
        Raises EpochDead before this worker has registered, and once it is fenced."""
        store = self._kept
        seconds, bound = check.check_seconds("lease", lease), check.check_limit("limit", limit)
        return await store.claim_webhooks(epoch=self._worker.epoch, lease=seconds, limit=bound, shares=shares)

    async def report(self, run_id: str, *, attempt: int, report: WebhookReport) -> bool:
        """Write the result of an attempt and emit it to the hooks. Returns False if another attempt has begun
        since."""
        written = await self._kept.report_webhook(
            check.check_id("run_id", run_id), attempt=attempt, report=report
        )
        if written and report.delivered:
            self._telemetry.emit(WebhookDelivered(run_id, attempt))
        elif written and not report.postponed:
            retry_in = None if report.retry_in is None else report.retry_in / 1e6
            self._telemetry.emit(WebhookFailed(run_id, attempt, report.error, retry_in))
        return written


def _checked(run_ids: Sequence[str] | None) -> list[str] | None:
    return None if run_ids is None else [check.check_id("run_ids", run_id) for run_id in run_ids]
