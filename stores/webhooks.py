"""The port that keeps webhooks until they are delivered or given up.

Times are microseconds of the store's clock since 1970 (UTC). Errors: StoreUnavailable, StoreRefused.
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
    """A webhook that the claimer alone may deliver while its lease lasts; `attempt` is the claim's number,
    from 1, and guards the report. `run`: the run's columns as it settled, and the `values` it left."""

    run_id: str
    attempt: int
    url: str
    run: dict[str, Json]
    user_id: str | None = None


class Shares(NamedTuple):
    """`per_user`: how many webhooks of one user the claimer may have at once; `held`: how many it has, by
    user. What has no user has no share: it may take all places."""

    per_user: int
    held: Mapping[str, int]

    def held_by(self, user_id: str) -> int:
        return self.held.get(user_id, 0)


@dataclass(frozen=True, slots=True)
class WebhookReport:
    """How an attempt ended. Not delivered: again in `retry_in` us, or never (None). `postponed`: it was none,
    and is not counted; it comes again. Raises ValueError where it is postponed for ever, or delivered."""

    delivered: bool
    status_code: int | None = None
    error: str | None = None
    retry_in: int | None = None
    postponed: bool = False

    def __post_init__(self) -> None:
        if self.postponed and (self.delivered or self.retry_in is None):
            raise ValueError("a webhook is postponed by a time (retry_in), and has not been delivered")

    @property
    def state(self) -> WebhookState:
        """What it makes of the webhook."""
        if self.delivered:
            return WebhookState.delivered
        return WebhookState.dead if self.retry_in is None else WebhookState.due


@dataclass(frozen=True, slots=True)
class WebhookRow:
    """One webhook, for people. Its URL may carry a secret."""

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
    """A store that keeps webhooks: `admit` and `insert` write one with a run that asks for it
    (`NewRun.webhook`), and whatever settles the run makes it due, in the same transaction."""

    async def next_webhook(self) -> float | None:
        """Seconds until one may be claimed; None = none is due. A read: for those who poll."""
        ...

    async def claim_webhooks(
        self, *, epoch: int, lease: float, limit: int, shares: Shares | None = None
    ) -> list[ClaimedWebhook]:
        """Due ones, the oldest first: for `lease` s nobody else gets them. Whoever dies with one has used
        an attempt, and it is due again when the lease is over. With `shares` users take turns: first those
        of whom the claimer has fewest, and of none more than its share. Raises EpochDead."""
        ...

    async def report_webhook(self, run_id: str, *, attempt: int, report: WebhookReport) -> bool:
        """How an attempt ended. False = it is over already, or another has begun: nothing is written."""
        ...

    async def revive_webhooks(
        self, run_ids: Sequence[str] | None = None, *, user_id: str | None = None
    ) -> list[str]:
        """Dead ones (None: all) are due again, now, with all attempts before them; not those that were
        stopped before their run ended, for which there is nothing to send. Returns their runs."""
        ...

    async def stop_webhooks(
        self, run_ids: Sequence[str] | None = None, *, user_id: str | None = None
    ) -> list[str]:
        """Waiting and due ones (None: all) are dead, now. An attempt that is under way is not broken off; its
        report is not written. Returns their runs."""
        ...

    async def count_webhooks(self, *, states: Sequence[str] = (), user_id: str | None = None) -> int:
        """How many `webhooks` would list without a limit."""
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
