"""What makes a worker quick to start: its imports take nine tenths of the time until it listens."""

from __future__ import annotations

import gc
from importlib import import_module


def start() -> None:
    """Import what every worker needs, while its supervisor finds out what it is to do. The first thing in the
    process. Until `started` no garbage is collected: imports make objects by the hundred thousand and no
    garbage, and the collector would look at them again and again."""
    gc.disable()
    _import_fastapi()
    for name in ("coordinator.bootstrap", "coordinator.gateway.app", "coordinator.gateway.server.serving"):
        import_module(name)


def started() -> None:
    """What is there now stays: the collector need not look at it any more."""
    gc.freeze()
    gc.enable()


def _import_fastapi() -> None:
    """With its models of an OpenAPI document left to be built when one is asked for: a tenth of a second."""
    from pydantic import BaseModel  # noqa: PLC0415 - after the collector was stopped

    BaseModel.model_config["defer_build"] = True
    try:
        import_module("fastapi")
    finally:
        del BaseModel.model_config["defer_build"]
