"""Stand-ins for the functions of the operating system that the product calls, answered by the world.

`time`, `random`, `os`, `uuid` in every loaded module of the product are replaced by objects that call the
current world. So no seed depends on the wall clock or on real random bytes, and no module has to take its
clock as an argument.
"""

from __future__ import annotations

import os
import random
import sys
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Protocol

from tests.support.inside import forget_random_bytes

_SKIPPED = (
    "coordinator.cli",
    "coordinator.testing",
    "coordinator.servers",
    "coordinator.redis",
    "stores.gate",
    "stores.sqlite",
)


class Clocks(Protocol):
    """What a world answers, for the process that runs at the moment."""

    def boottime(self) -> float: ...
    def wall_ns(self) -> int: ...
    @property
    def chance(self) -> random.Random: ...


_now: list[Clocks] = []


@contextmanager
def answering(world: Clocks) -> Generator[None]:
    """Makes `world` the current one. As every process, it begins without random bytes in stock."""
    forget_random_bytes()
    _now.append(world)
    try:
        yield
    finally:
        _now.pop()
        forget_random_bytes()


class _Module:
    """A module, but for what is overridden here."""

    def __init__(self, real: ModuleType) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Time(_Module):
    def monotonic(self) -> float:
        return _now[-1].boottime() if _now else time.monotonic()

    def clock_gettime(self, clock: int) -> float:
        return _now[-1].boottime() if _now else time.clock_gettime(clock)

    def time_ns(self) -> int:
        return _now[-1].wall_ns() if _now else time.time_ns()

    def time(self) -> float:
        return self.time_ns() / 1e9


class _Random(_Module):
    def uniform(self, low: float, high: float) -> float:
        return (_now[-1].chance if _now else random).uniform(low, high)

    def random(self) -> float:
        return (_now[-1].chance if _now else random).random()


class _Os(_Module):
    def getpid(self) -> int:
        return 1 if _now else os.getpid()

    def urandom(self, size: int) -> bytes:
        return _now[-1].chance.randbytes(size) if _now else os.urandom(size)


class _Uuid(_Module):
    def uuid4(self) -> uuid.UUID:
        return uuid.UUID(int=_now[-1].chance.getrandbits(128), version=4) if _now else uuid.uuid4()


_STAND_INS: dict[str, tuple[ModuleType, _Module]] = {
    "time": (time, _Time(time)),
    "random": (random, _Random(random)),
    "os": (os, _Os(os)),
    "uuid": (uuid, _Uuid(uuid)),
}


@contextmanager
def installed() -> Generator[None]:
    """Every loaded module of the product calls the stand-ins; outside a world they call the real modules."""
    put: list[tuple[ModuleType, str, ModuleType]] = []
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in ("coordinator", "stores") or name.startswith(_SKIPPED):
            continue
        for attribute, (real, stand_in) in _STAND_INS.items():
            if getattr(module, attribute, None) is real:
                setattr(module, attribute, stand_in)
                put.append((module, attribute, real))
    try:
        yield
    finally:
        for module, attribute, real in put:
            setattr(module, attribute, real)
