"""The webhook port: stores webhooks until they are delivered or their last attempt has failed.

Times are µs since 1970 on the store's clock. Errors: StoreUnavailable, StoreRefused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from stores.rows import Json
from stores.states import WebhookState

STOPPED = "stopped by an operator"
"""The error of a webhook that was stopped."""
PENDING = (WebhookState.waiting, WebhookState.due)


class ClaimedWebhook(NamedTuple):
    """A webhook that only the claimer may deliver until the lease expires. `attempt`: the number of the claim
    (from 1), which guards the report. `run`: the run's columns when it settled, and the `values` that it
    left."""

    run_id: str
    attempt: int
    url: str
    run: dict[str, Json]
    user_id: str | None = None


class Shares(NamedTuple):
    """Limits a claim by user. `per_user`: maximum number of webhooks of one user that the claimer delivers at
    the same time. `held`: how many it delivers now, by user. Webhooks without a user are not limited."""

    per_user: int
    held: Mapping[str, int]

    def held_by(self, user_id: str) -> int:
        return self.held.get(user_id, 0)


@dataclass(frozen=True, slots=True)
class WebhookReport:
    """The result of an attempt. If not delivered, the next attempt is due in `retry_in` µs (None = there is
    none). `postponed`: no attempt was made, and none is counted. Raises ValueError if it is postponed and
    delivered, or postponed without `retry_in`."""

    delivered: bool
    status_code: int | None = None
    error: str | None = None
    retry_in: int | None = None
    postponed: bool = False

    def __post_init__(self) -> None:
        if self.postponed and (self.delivered or self.retry_in is None):
            raise ValueError("a postponed webhook needs retry_in, and cannot be delivered")

    @property
    def state(self) -> WebhookState:
        """The state of the webhook after the report."""
        if self.delivered:
            return WebhookState.delivered
        return WebhookState.dead if self.retry_in is None else WebhookState.due


@dataclass(frozen=True, slots=True)
class WebhookRow:
    """One webhook, for people. Its URL may contain a secret."""

    run_id: str
    thread_id: str
    user_id: str | None
    url: str
    state: WebhookState
    attempts: int
    next_at: int | None
    claimed_by: int | None
    status_code: int | None
    error: str | None
    created_at: int
    due_at: int | None
    ended_at: int | None


@runtime_checkable
class WebhookStore(Protocol):
    """A store of webhooks. `admit` and `insert` create one with a run that has `RunSpec.webhook`; the
    transaction that settles the run makes it due."""

    async def next_webhook(self) -> float | None:
        """Returns the seconds until a webhook may be claimed; None = there is none. A cheap read."""
        ...

    async def claim_webhooks(
        self, *, epoch: int, lease: float, limit: int, shares: Shares | None = None
    ) -> list[ClaimedWebhook]:
        """Claims due webhooks, the oldest first, for `lease` s. If the claimer dies, the claim counts as an
        attempt, and the webhook is due again after the lease. With `shares`, users take turns: first those
        with the fewest webhooks in delivery by the claimer, and no user gets more than its share. Raises
        EpochDead."""
        ...

    async def report_webhook(self, run_id: str, *, attempt: int, report: WebhookReport) -> bool:
        """Records the result of an attempt. Returns False, and writes nothing, if the webhook was stopped or
        claimed again meanwhile."""
        ...

    async def revive_webhooks(
        self, run_ids: Sequence[str] | None = None, *, user_id: str | None = None
    ) -> list[str]:
        """Makes dead webhooks (None = all) due now, with a new count of attempts; not those that were stopped
        before their run ended. Returns the ids of their runs."""
        ...

    async def stop_webhooks(
        self, run_ids: Sequence[str] | None = None, *, user_id: str | None = None
    ) -> list[str]:
        """Makes waiting and due webhooks (None = all) dead. An attempt in progress is not aborted, but its
        report is not written. Returns the ids of their runs."""
        ...

    async def count_webhooks(self, *, states: Sequence[str] = (), user_id: str | None = None) -> int:
        """Returns the number of webhooks that `webhooks` would return without a limit."""
        ...

    async def webhooks(
        self,
        *,
        states: Sequence[str] = (),
        run_id: str | None = None,
        user_id: str | None = None,
        limit: int = 100,
    ) -> list[WebhookRow]:
        """Newest first."""
        ...
