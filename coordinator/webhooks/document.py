"""What a webhook says: the run as clients of the API know it, with the values that it left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

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


def without_path(url: str) -> str:
    """For whoever looks at webhooks: the path may be a secret, and a list is read by more people than it was
    told. Nothing of a URL that is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "…"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"


def body(run: Mapping[str, Any], *, assistant_id: str | None, now: float) -> bytes:
    """The same in every attempt but for `webhook_sent_at`. ASCII, so that a lone surrogate survives.

    `assistant_id`: as clients know it. A run with `cancel_action` "rollback" has left nothing behind.
    """
    document: dict[str, Any] = {name: run[name] for name in _AS_THEY_ARE}
    document["assistant_id"] = assistant_id
    document["cancel_reason"] = run["cancel_reason"] or run["cancel_cause"]
    document["updated_at"] = iso(run["updated_at"])
    document["run_started_at"] = iso(run["started_at"])
    document["run_ended_at"] = iso(run["ended_at"])
    document["webhook_sent_at"] = iso(int(now * 1e6))
    document["values"] = _values(run["values"], run["interrupts"])
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")


def _values(values: Any, interrupts: Any) -> Any:
    """Of a paused run, with what it asks."""
    if interrupts and (values is None or isinstance(values, dict)):
        return {**cast("dict[str, Any]", values or {}), "__interrupt__": interrupts}
    return values
