"""What goes on for a user without a request: crons that will fire, webhooks that will be sent."""

from __future__ import annotations

from typing import NamedTuple

from coordinator import arguments as check
from coordinator.facade.base import Facade
from stores.crons import CronQuery, CronStore
from stores.webhooks import PENDING, WebhookStore


class PendingWork(NamedTuple):
    crons: int
    """Enabled ones."""
    webhooks: int
    """Those that wait for the end of their run, or are due."""


class PendingWorkFacade(Facade):
    async def pending_work(self, user_id: str) -> PendingWork:
        """It goes on when the user's last key is revoked: see `disable_crons`, `delete_crons` and
        `stop_webhooks`."""
        owner, store = check.check_id("user_id", user_id), self._store
        crons = webhooks = 0
        if isinstance(store, CronStore):
            crons = await store.count_crons(CronQuery(enabled=True), user_id=owner)
        if isinstance(store, WebhookStore):
            webhooks = await store.count_webhooks(states=PENDING, user_id=owner)
        return PendingWork(crons, webhooks)
