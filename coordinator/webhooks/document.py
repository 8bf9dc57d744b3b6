"""The body of a webhook: the run in the format of the HTTP API, with the thread's values after it."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import cast
from urllib.parse import urlsplit

from stores.json_values import Json, JsonMapping, JsonObject
from stores.times import iso

_AS_THEY_ARE = (
    "run_id",
    "thread_id",
    "created_at",
    "status",
    "metadata",
    "kwargs",
    "multitask_strategy",
    "error",
    "cancel_action",
)
FIELDS = frozenset(_AS_THEY_ARE) | {
    "assistant_id",
    "cancel_reason",
    "run_ended_at",
    "run_started_at",
    "updated_at",
    "values",
    "webhook_sent_at",
}


def without_path(url: str) -> str:
    """Returns the URL without path, query and credentials, for lists of webhooks: the path may be a secret.
    Returns "…" for a malformed URL, or one without scheme or host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "…"
    if not (parts.scheme and parts.netloc):
        return "…"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"


def body(
    run: JsonMapping, *, assistant_id: str | None, now: float, only: Collection[str] | None = None
) -> bytes:
    """Returns the request body as JSON, which is the same in every attempt except for `webhook_sent_at`.
    Escaped to ASCII, because UTF-8 cannot encode a lone surrogate.

    `assistant_id`: the id that clients use. `now`: seconds since 1970. A run with `cancel_action` "rollback"
    left no changes behind. `only`: the fields that are sent; None = `FIELDS`.
    """
    document: JsonObject = {name: run[name] for name in _AS_THEY_ARE}
    document["assistant_id"] = assistant_id
    document["cancel_reason"] = run["cancel_reason"] or run["cancel_cause"]
    document["updated_at"] = iso(run["updated_at"])
    document["run_started_at"] = iso(run["started_at"])
    document["run_ended_at"] = iso(run["ended_at"])
    document["webhook_sent_at"] = iso(int(now * 1e6))
    document["values"] = _values(run["values"], run["interrupts"])
    if only is not None:
        document = {name: value for name, value in document.items() if name in only}
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")


def _values(values: Json, interrupts: Json) -> Json:
    """Returns the values, for a paused run with its interrupts as `__interrupt__`."""
    if interrupts and (values is None or isinstance(values, dict)):
        shown = [{name: value for name, value in each.items() if name != "task_id"} for each in interrupts]
        return {**cast("JsonObject", values or {}), "__interrupt__": shown}
    return values
