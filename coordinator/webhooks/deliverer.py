"""The loop that delivers webhooks: it claims due webhooks, sends them, and reports the results.

Every worker delivers webhooks of all runs, at least once: if a worker dies between claim and report, another
worker claims the webhook when the claim's lease has expired.
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

from coordinator.assistants.configured import client_assistant
from coordinator.assistants.references import dereferenced
from coordinator.assistants.registry import Assistants
from coordinator.errors import CoordinatorError, StoreError
from coordinator.telemetry.repeated import Repeated
from coordinator.webhooks.document import body
from coordinator.webhooks.lanes import Full, Lanes
from coordinator.webhooks.policy import UNRESTRICTED, WebhookPolicy
from coordinator.webhooks.settings import WebhookSettings
from coordinator.webhooks.signing import Signer
from coordinator.webhooks.targets import NameUnknown, NotReached, TargetRefused, Targets
from stores.tasks import begin_soon
from stores.webhooks import ClaimedWebhook, Shares, WebhookReport

if TYPE_CHECKING:
    from coordinator.webhooks.client import Client

logger = logging.getLogger(__name__)

_LEASE_MARGIN = 15.0  # s; a claim lasts longer than an attempt by this, for the claim's answer and the report
_REPORT_ATTEMPTS = 5  # while the store is unavailable
_REPORT_BACKOFF = 1.0  # s; after the first attempt to report, growing linearly
_STOP_WITHIN = 5.0  # s; for attempts in progress when the worker shuts down
_HTTP_GONE = 410


class WebhookQueue(Protocol):
    """The methods of `manager.webhooks` that the loop calls. Claims are made in the epoch of its worker."""

    async def next_due(self) -> float | None: ...
    async def claim(
        self, *, lease: float, limit: int, shares: Shares | None = None
    ) -> list[ClaimedWebhook]: ...
    async def report(self, run_id: str, *, attempt: int, report: WebhookReport) -> bool: ...


def targets_of(settings: WebhookSettings, policy: WebhookPolicy = UNRESTRICTED) -> Targets:
    return Targets(
        allow_private=settings.webhook_allow_private, ports=frozenset(settings.webhook_ports), policy=policy
    )


class Deliverer:
    """`targets` (default: as in the settings) and `ssl_context` (default: the system's certificates) are
    parameters for tests."""

    def __init__(
        self,
        queue: WebhookQueue,
        assistants: Assistants,
        settings: WebhookSettings,
        *,
        targets: Targets | None = None,
        policy: WebhookPolicy = UNRESTRICTED,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._queue, self._assistants, self._settings = queue, assistants, settings
        self._signer = Signer.of(settings.webhook_secret)
        self._targets, self._ssl_context = targets or targets_of(settings, policy), ssl_context
        self._lanes = Lanes(settings.webhook_per_receiver, per_user=settings.webhooks_of_a_user)
        self._deliveries: dict[asyncio.Task[None], str | None] = {}
        self._kick = asyncio.Event()
        self._stopping = False

    @cached_property
    def _client(self) -> Client:
        """Created with the first webhook, because its import and the system's certificates take time and
        memory that most servers never need."""
        from coordinator.webhooks.client import Client  # noqa: PLC0415 - see above

        return Client(self._targets, timeout=self._settings.webhook_timeout, ssl_context=self._ssl_context)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Runs the loop within the block. At its end, makes one more round for the webhooks that are due
        then."""
        loop = begin_soon(self._deliver_until_stopped(), name="the delivery of webhooks")
        try:
            yield
        finally:
            await self._stop(loop)

    async def _stop(self, loop: asyncio.Task[None]) -> None:
        """Waits for a last round and for attempts in progress, for at most `_STOP_WITHIN`. Attempts that are
        cancelled then are repeated by other workers, after their claims' leases."""
        self._stopping = True
        self._kick.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_WITHIN):
                await asyncio.wait((loop,))
                while self._deliveries:
                    await asyncio.wait(self._deliveries)
        unfinished = {task for task in (loop, *self._deliveries) if not task.done()}
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished)

    async def _deliver_until_stopped(self) -> None:
        poll, failures = self._settings.webhook_poll, Repeated()
        while True:
            last = self._stopping
            pause = poll * random.uniform(0.9, 1.1)
            try:
                pause = min(pause, await self._round())
            except CoordinatorError as error:
                logger.log(
                    failures.level_of(error),
                    "This worker could not claim webhooks; it retries every %.3g s: %s",
                    poll,
                    error,
                )
            except Exception:
                logger.exception("This worker could not claim webhooks; it retries within %.3g s", pause)
            else:
                failures.succeeded()
            if last:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._kick.wait()
            self._kick.clear()

    async def _round(self) -> float:
        """Claims webhooks up to the concurrency limit and each user's share, and starts their delivery.
        Returns the seconds until the next round, which the end of a delivery shortens."""
        capacity = self._settings.webhook_concurrency - len(self._deliveries)
        if capacity <= 0:
            return self._settings.webhook_poll
        due_in = await self._queue.next_due()
        if due_in is None or due_in > 0:
            return self._settings.webhook_poll if due_in is None else due_in
        lease = self._settings.webhook_timeout + _LEASE_MARGIN
        in_progress = Counter(user_id for user_id in self._deliveries.values() if user_id is not None)
        shares = Shares(self._settings.webhooks_of_a_user, in_progress)
        claims = await self._queue.claim(lease=lease, limit=capacity, shares=shares)
        for claimed in claims:
            task = begin_soon(self._deliver(claimed), name=f"webhook of run {claimed.run_id!r}")
            self._deliveries[task] = claimed.user_id
            task.add_done_callback(self._delivery_ended)
        return 0 if len(claims) == capacity else self._settings.webhook_poll

    def _delivery_ended(self, task: asyncio.Task[None]) -> None:
        del self._deliveries[task]
        self._kick.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("The delivery of a webhook failed; it is due again after its lease", exc_info=error)

    async def _deliver(self, claimed: ClaimedWebhook) -> None:
        report = await self._attempt(claimed)
        for attempt in range(1, _REPORT_ATTEMPTS + 1):
            try:
                await self._queue.report(claimed.run_id, attempt=claimed.attempt, report=report)
            except StoreError as error:
                logger.warning(
                    "Attempt %d to deliver the webhook of run %r could not be recorded in the store; unless"
                    " a retry succeeds, the webhook is sent again: %s",
                    claimed.attempt,
                    claimed.run_id,
                    error,
                )
                if report.postponed:  # a late report could be taken for that of the next claim
                    return
                await asyncio.sleep(attempt * _REPORT_BACKOFF)
            else:
                return
        # Not reported: the webhook is due again after its lease, and is delivered a second time.

    async def _attempt(self, claimed: ClaimedWebhook) -> WebhookReport:
        if claimed.attempt > self._settings.webhook_attempts:
            return self._failed(claimed, "the worker of the last attempt died before it reported")
        try:
            with self._lanes.slot(self._targets.parse(claimed.url).origin, claimed.user_id):
                status = await self._send(claimed)
        except Full as full:
            return WebhookReport(delivered=False, retry_in=round(full.retry_in * 1e6), postponed=True)
        except TargetRefused as refused:
            return WebhookReport(delivered=False, error=f"not sent: the URL {refused.why}")
        except (NameUnknown, NotReached) as failure:
            return self._failed(claimed, str(failure))
        except Exception as failure:
            logger.exception(
                "Sending the webhook of run %r failed; the attempt counts as failed", claimed.run_id
            )
            return self._failed(claimed, type(failure).__name__)
        return self._report_of(claimed, status)

    async def _send(self, claimed: ClaimedWebhook) -> int:
        now = time.time()
        run = claimed.run
        assistant_id = client_assistant(run["metadata"]) or self._assistants.client_id(run["assistant_id"])
        values = await dereferenced(
            self._assistants,
            claimed.run["assistant_id"],
            claimed.run["thread_id"],
            claimed.run["values"],
            user_id=claimed.user_id,
        )
        run = {**claimed.run, "values": values}
        payload = body(run, assistant_id=assistant_id, now=now, only=self._policy.fields)
        headers = {**self._policy.headers, **self._signer.headers(claimed.run_id, payload, now=now)}
        return await self._client.post(claimed.url, headers, payload, user_id=claimed.user_id)

    def _report_of(self, claimed: ClaimedWebhook, status: int) -> WebhookReport:
        if 200 <= status < 300:
            return WebhookReport(delivered=True, status_code=status)
        if status == _HTTP_GONE:
            why = "the receiver answered with status 410 and wants no further attempts"
            return WebhookReport(delivered=False, status_code=status, error=why)
        return self._failed(claimed, f"answered with status {status}", status)

    def _failed(self, claimed: ClaimedWebhook, why: str, status: int | None = None) -> WebhookReport:
        if claimed.attempt >= self._settings.webhook_attempts:
            return WebhookReport(delivered=False, status_code=status, error=why)
        retry_in = round(self._backoff(claimed.attempt) * 1e6)
        return WebhookReport(delivered=False, status_code=status, error=why, retry_in=retry_in)

    def _backoff(self, attempt: int) -> float:
        """Seconds until the next attempt: exponential, and jittered by up to a half, so that webhooks that
        failed together are not retried together."""
        longest = self._settings.webhook_backoff * 2.0 ** (attempt - 1)
        return min(longest, self._settings.webhook_backoff_max) * random.uniform(0.5, 1.0)
