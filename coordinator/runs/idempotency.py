"""What makes two requests under one idempotency key the same request."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from stores.rows import NewRun
from stores.sql.codec import dumps_opaque, is_json

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def body_hash(run: NewRun) -> str:
    """The same in every process. Of kwargs that JSON cannot hold it sees what is stored of them, without
    the addresses of objects."""
    body: list[Any] = [run.assistant_id, run.multitask_strategy, run.metadata, _kwargs(run), run.model_name]
    more = [run.parent_run_id, run.timeout_ms, run.idle_timeout_ms, run.queue_timeout_ms, run.delay_ms]
    if any(value is not None for value in more):  # the hash of a request without them never changes
        body += more
    if run.webhook is not None:
        body.append(run.webhook)
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _kwargs(run: NewRun) -> Any:
    if is_json(run.kwargs):
        return run.kwargs
    return json.loads(_ADDRESS.sub("", dumps_opaque(run.kwargs)))
