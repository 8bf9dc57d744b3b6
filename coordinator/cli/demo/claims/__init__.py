"""The eight claims, in the order in which they are shown: the last one costs a worker."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from coordinator.cli.demo.claims import (
    dead_worker,
    enqueue,
    gateway,
    interrupt,
    redis_away,
    reject,
    remote_cancel,
    rollback,
)
from coordinator.cli.demo.claims.claim import Claim


def _claim(name: str, says: str, module: ModuleType, **more: Any) -> Claim:
    return Claim(name, says, module.measure, module.check, module.figures, **more)


CLAIMS = (
    _claim("cancel", "a run on worker A is cancelled from worker B", remote_cancel),
    _claim("reject", "three workers ask at the same moment, exactly one wins", reject),
    _claim("interrupt", "the new run starts only after the old task has stopped", interrupt),
    _claim("rollback", "the new run finds the thread as it was before", rollback),
    _claim("enqueue", "first in, first out over three workers", enqueue),
    _claim("redis", "Redis is killed: all goes on, slower, and heals", redis_away, kills_redis=True),
    _claim(
        "gateway",
        "an unmodified client creates, streams, joins and cancels over three workers",
        gateway,
        needs=("fastapi", "langgraph_sdk", "uvicorn"),
    ),
    _claim("crash", "a killed worker's runs are ended, the others untouched", dead_worker),
)
