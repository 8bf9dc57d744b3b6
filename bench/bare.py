"""The bare client library, as what the coordinator is compared with."""

from __future__ import annotations

from typing import Any, cast

import redis.asyncio


def connect(url: str) -> Any:
    """A plain redis-py client. Untyped, because redis-py's own types are half unknown."""
    return cast("Any", redis.asyncio.Redis).from_url(url)
