"""Webhooks: written with the run, made due by a trigger when it settles, delivered under a lease. See
functions/9_webhooks_crons.sql."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from stores.errors import EpochDead
from stores.sql.codec import claimed_webhook
from stores.sql.columns import Columns
from stores.sql.postgres.calls import Call, Function, Query, Rows, scalar
from stores.sql.postgres.codec import plain, text
from stores.sql.readable import readable
from stores.webhooks import STOPPED, ClaimedWebhook, Shares, WebhookReport

_DUE = Query(
    "SELECT GREATEST(0, next_at - rc.clock($1)) / 1e6::float8 FROM rc.webhooks WHERE state = 'due'"
    " ORDER BY next_at LIMIT 1"
)


def next_due(now: int | None) -> Call[float | None]:
    return Call(_DUE, (now,), lambda rows: rows[0][0] if rows else None)


_CLAIM = Function("claim_webhooks", ("bigint", "bigint", "bigint", "bigint", "text[]", "bigint[]", "bigint"))


def claim(
    now: int | None, epoch: int, lease: int, limit: int, *, shares: Shares | None
) -> Call[list[ClaimedWebhook]]:
    def answer(rows: Rows) -> list[ClaimedWebhook]:
        if rows and rows[0][0] is None:
            raise EpochDead(epoch)
        return readable("webhook of run", rows, _claimed)

    per_user = None if shares is None else shares.per_user
    held: Mapping[str, int] = {} if shares is None else shares.held
    args = (epoch, lease, limit, per_user, list(held), list(held.values()), now)
    return Call(_CLAIM, args, answer)


def _claimed(row: Columns) -> ClaimedWebhook:
    return claimed_webhook(row, {name: plain(value) for name, value in json.loads(row[5]).items()})


_REPORT = Function("report_webhook", ("text", "bigint", "text", "bigint", "text", "bigint", "bigint"))


def report(now: int | None, run_id: str, attempt: int, result: WebhookReport) -> Call[bool]:
    state = "postponed" if result.postponed else result.state.value
    args = (run_id, attempt, state, result.status_code, text(result.error), result.retry_in, now)
    return Call(_REPORT, args, scalar)


_REVIVE = Function("revive_webhooks", ("text[]", "text", "bigint"))


def revive(now: int | None, run_ids: Sequence[str] | None, user_id: str | None) -> Call[list[str]]:
    ids = None if run_ids is None else list(run_ids)
    return Call(_REVIVE, (ids, user_id, now), lambda rows: [run_id for (run_id,) in rows])


_STOP = Function("stop_webhooks", ("text[]", "text", "text", "bigint"))


def stop(now: int | None, run_ids: Sequence[str] | None, user_id: str | None) -> Call[list[str]]:
    ids = None if run_ids is None else list(run_ids)
    return Call(_STOP, (ids, user_id, STOPPED, now), lambda rows: [run_id for (run_id,) in rows])
