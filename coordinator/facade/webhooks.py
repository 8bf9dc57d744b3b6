"""Webhooks of runs: for who delivers them, and for operators."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator import arguments as check
from coordinator.errors import InvalidArgument
from coordinator.facade.base import Facade
from coordinator.telemetry.events import WebhookDelivered, WebhookFailed
from stores.states import WebhookState
from stores.webhooks import ClaimedWebhook, Shares, WebhookReport, WebhookRow, WebhookStore


class WebhooksFacade(Facade):
    @property
    def keeps_webhooks(self) -> bool:
        """May runs ask for one? A store of a gateway's own, wrapped, keeps them in memory."""
        return isinstance(self._store, WebhookStore)

    @property
    def _webhooks(self) -> WebhookStore:
        if not isinstance(self._store, WebhookStore):
            raise InvalidArgument("webhook", f"{self._store.url} keeps none")
        return self._store

    async def next_webhook(self) -> float | None:
        """Seconds until one may be claimed, 0 where one may be now; None = none is due, or kept at all."""
        return await self._webhooks.next_webhook() if self.keeps_webhooks else None

    async def claim_webhooks(
        self, *, lease: float, limit: int, shares: Shares | None = None
    ) -> list[ClaimedWebhook]:
        """For this worker alone, for `lease` s; with `shares` of no user more than its share. Raises
        EpochDead before it registered, and once fenced."""
        seconds, bound = check.check_seconds("lease", lease), check.check_limit("limit", limit)
        return await self._webhooks.claim_webhooks(
            epoch=self._parts.worker.epoch, lease=seconds, limit=bound, shares=shares
        )

    async def report_webhook(self, run_id: str, *, attempt: int, report: WebhookReport) -> bool:
        """How an attempt ended; False where another has begun meanwhile. Hooks are told what was written."""
        written = await self._webhooks.report_webhook(
            check.check_id("run_id", run_id), attempt=attempt, report=report
        )
        if written and report.delivered:
            self._parts.telemetry.emit(WebhookDelivered(run_id, attempt))
        elif written and not report.postponed:
            retry_in = None if report.retry_in is None else report.retry_in / 1e6
            self._parts.telemetry.emit(WebhookFailed(run_id, attempt, report.error, retry_in))
        return written

    async def revive_webhooks(
        self, run_ids: Sequence[str] | None = None, *, user_id: str | None = None
    ) -> list[str]:
        """Webhooks that were given up are due again, now; None = all. Answers the runs whose it was."""
        ids = None if run_ids is None else [check.check_id("run_ids", run_id) for run_id in run_ids]
        return await self._webhooks.revive_webhooks(ids, user_id=check.check_optional_id("user_id", user_id))

    async def stop_webhooks(
        self, run_ids: Sequence[str] | None = None, *, user_id: str | None = None
    ) -> list[str]:
        """Webhooks that wait for the end of their run, or are due, are given up; None = all. An attempt that
        is under way is not broken off. Returns the runs."""
        ids = None if run_ids is None else [check.check_id("run_ids", run_id) for run_id in run_ids]
        return await self._webhooks.stop_webhooks(ids, user_id=check.check_optional_id("user_id", user_id))

    async def count_webhooks(self, *, states: Sequence[str] = (), user_id: str | None = None) -> int:
        """How many `webhooks` would list without a limit."""
        return await self._webhooks.count_webhooks(
            states=check.check_members("states", states, WebhookState),
            user_id=check.check_optional_id("user_id", user_id),
        )

    async def webhooks(
        self,
        *,
        states: Sequence[str] = (),
        run_id: str | None = None,
        user_id: str | None = None,
        limit: int = 100,
    ) -> list[WebhookRow]:
        """Newest first. Their URLs may carry secrets."""
        return await self._webhooks.webhooks(
            states=check.check_members("states", states, WebhookState),
            run_id=check.check_optional_id("run_id", run_id),
            user_id=check.check_optional_id("user_id", user_id),
            limit=check.check_limit("limit", limit),
        )

    def _asked_for(self, webhook: str | None) -> str | None:
        """The URL is stored as it is; where it may go is the policy of who lets callers name one, and is
        checked again before it is sent."""
        if webhook is not None and not self.keeps_webhooks:
            raise InvalidArgument("webhook", f"{self._store.url} keeps none")
        return None if webhook is None else check.check_url("webhook", webhook)
