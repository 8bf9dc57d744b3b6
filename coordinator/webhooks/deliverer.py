"""The loop that delivers webhooks: claim what is due, send it, report how it went.

Any worker delivers any run's webhook, at least once: a worker that dies between claim and report leaves the
webhook to whoever claims it when the lease is over.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from coordinator.assistants.registry import Assistants
from coordinator.errors import CoordinatorError, StoreError
from coordinator.webhooks.document import body
from coordinator.webhooks.lanes import Full, Lanes
from coordinator.webhooks.settings import WebhookSettings
from coordinator.webhooks.signing import Signer
from coordinator.webhooks.targets import NameUnknown, NotReached, TargetRefused, Targets
from stores.tasks import begin_soon
from stores.webhooks import ClaimedWebhook, Shares, WebhookReport

if TYPE_CHECKING:
    from coordinator.webhooks.client import Client

logger = logging.getLogger(__name__)

_LEASE_BEYOND = 15.0  # s; what a claim lasts longer than an attempt: the claim's own way, and the report's
_REPORTS = 5  # attempts to report, the store being away
_PATIENCE = 1.0  # s; between the first two of them, growing
_FAREWELL = 5.0  # s; for attempts that are under way when the worker leaves
_GONE = 410


class DueWebhooks(Protocol):
    """What the loop needs of `manager.webhooks`. Claims are for its worker's epoch."""

    async def next_due(self) -> float | None: ...
    async def claim(
        self, *, lease: float, limit: int, shares: Shares | None = None
    ) -> list[ClaimedWebhook]: ...
    async def report(self, run_id: str, *, attempt: int, report: WebhookReport) -> bool: ...


def targets_of(settings: WebhookSettings) -> Targets:
    return Targets(allow_private=settings.webhook_allow_private, ports=frozenset(settings.webhook_ports))


class Deliverer:
    """`targets`, `ssl_context`: for tests; default as the settings say, and the system's certificates."""

    def __init__(
        self,
        webhooks: DueWebhooks,
        assistants: Assistants,
        settings: WebhookSettings,
        *,
        targets: Targets | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._webhooks, self._assistants, self._settings = webhooks, assistants, settings
        self._signer = Signer.of(settings.webhook_secret)
        self._targets, self._ssl_context = targets or targets_of(settings), ssl_context
        self._lanes = Lanes(settings.webhook_per_receiver, per_user=settings.webhooks_of_a_user)
        self._under_way: dict[asyncio.Task[None], str | None] = {}
        self._kick = asyncio.Event()
        self._stopping = False

    @cached_property
    def _client(self) -> Client:
        """With all that a connection takes, which most servers never need: its import and the system's
        certificates."""
        from coordinator.webhooks.client import Client  # noqa: PLC0415 - see above

        return Client(self._targets, timeout=self._settings.webhook_timeout, ssl_context=self._ssl_context)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Deliver for as long as the block lasts; at its end, once more what is due then."""
        loop = begin_soon(self._deliver_until_stopped(), name="the delivery of webhooks")
        try:
            yield
        finally:
            await self._take_leave(loop)

    async def _take_leave(self, loop: asyncio.Task[None]) -> None:
        """The loop goes round once more. What cannot be done in time is left to others: its lease ends."""
        self._stopping = True
        self._kick.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await asyncio.wait((loop,))
                while self._under_way:
                    await asyncio.wait(self._under_way)
        left = {task for task in (loop, *self._under_way) if not task.done()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    async def _deliver_until_stopped(self) -> None:
        poll = self._settings.webhook_poll
        while True:
            last = self._stopping
            pause = poll * random.uniform(0.9, 1.1)
            try:
                pause = min(pause, await self._round())
            except CoordinatorError as error:
                logger.warning("Looking for webhooks: %s", error)
            except Exception:
                logger.exception("Looking for webhooks failed")
            if last:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._kick.wait()
            self._kick.clear()

    async def _round(self) -> float:
        """Claim what there is room for, of each user no more than its share; answer in how many seconds to
        look again. Whoever ends a delivery kicks."""
        room = self._settings.webhook_concurrency - len(self._under_way)
        if room <= 0:
            return self._settings.webhook_poll
        due_in = await self._webhooks.next_due()
        if due_in is None or due_in > 0:
            return self._settings.webhook_poll if due_in is None else due_in
        lease = self._settings.webhook_timeout + _LEASE_BEYOND
        held = Counter(user_id for user_id in self._under_way.values() if user_id is not None)
        shares = Shares(self._settings.webhooks_of_a_user, held)
        claimed = await self._webhooks.claim(lease=lease, limit=room, shares=shares)
        for one in claimed:
            task = begin_soon(self._deliver(one), name=f"webhook of run {one.run_id!r}")
            self._under_way[task] = one.user_id
            task.add_done_callback(self._over)
        return 0 if len(claimed) == room else self._settings.webhook_poll

    def _over(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._kick.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("Delivering a webhook failed", exc_info=error)

    async def _deliver(self, claimed: ClaimedWebhook) -> None:
        report = await self._attempt(claimed)
        for attempt in range(1, _REPORTS + 1):
            try:
                await self._webhooks.report(claimed.run_id, attempt=claimed.attempt, report=report)
            except StoreError as error:
                logger.warning("The webhook of run %r is not reported: %s", claimed.run_id, error)
                if report.postponed:  # late, it would look like the report of another claim
                    return
                await asyncio.sleep(attempt * _PATIENCE)
            else:
                return
        # Left as it is: due again when the lease is over, and then delivered a second time.

    async def _attempt(self, claimed: ClaimedWebhook) -> WebhookReport:
        if claimed.attempt > self._settings.webhook_attempts:
            return self._failed(claimed, "no worker has lived to report the last attempt")
        try:
            with self._lanes.place(self._targets.parse(claimed.url).origin, claimed.user_id):
                status = await self._send(claimed)
        except Full as full:
            return WebhookReport(delivered=False, retry_in=round(full.come_again * 1e6), postponed=True)
        except TargetRefused as refused:
            return WebhookReport(delivered=False, error=f"not sent: the URL {refused.why}")
        except (NameUnknown, NotReached) as failure:
            return self._failed(claimed, str(failure))
        except Exception as failure:
            logger.exception("Sending the webhook of run %r failed", claimed.run_id)
            return self._failed(claimed, type(failure).__name__)
        return self._judged(claimed, status)

    async def _send(self, claimed: ClaimedWebhook) -> int:
        now = time.time()
        assistant_id = self._assistants.client_id(claimed.run["assistant_id"])
        said = body(claimed.run, assistant_id=assistant_id, now=now)
        headers = self._signer.headers(claimed.run_id, said, now=now)
        return await self._client.post(claimed.url, headers, said, user_id=claimed.user_id)

    def _judged(self, claimed: ClaimedWebhook, status: int) -> WebhookReport:
        if 200 <= status < 300:
            return WebhookReport(delivered=True, status_code=status)
        if status == _GONE:
            why = "the receiver wants no more of these"
            return WebhookReport(delivered=False, status_code=status, error=why)
        return self._failed(claimed, f"answered with status {status}", status)

    def _failed(self, claimed: ClaimedWebhook, why: str, status: int | None = None) -> WebhookReport:
        if claimed.attempt >= self._settings.webhook_attempts:
            return WebhookReport(delivered=False, status_code=status, error=why)
        retry_in = round(self._backoff(claimed.attempt) * 1e6)
        return WebhookReport(delivered=False, status_code=status, error=why, retry_in=retry_in)

    def _backoff(self, attempt: int) -> float:
        """Twice as long each time; between the half of that and all of it, so that what failed together
        does not come again together."""
        longest = self._settings.webhook_backoff * 2.0 ** (attempt - 1)
        return min(longest, self._settings.webhook_backoff_max) * random.uniform(0.5, 1.0)
