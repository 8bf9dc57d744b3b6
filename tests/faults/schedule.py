"""Which faults strike where, how often, in which order: all of it follows from the seed and the minutes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.fault import Fault
from tests.faults.mortal import POINTS
from tests.faults.processes import Kill, Pause
from tests.faults.redis import BlackHole, Delay, DropReply, Failover, Flush, Freeze, Reset, Restart
from tests.faults.store import ClockJump, Full, Lock

QUICK: dict[str, Any] = {
    "sqlite_synchronous": "NORMAL",
    "tick": 0.3,
    "short_tick": 0.1,
    "canary": 0.3,
    "renew": 0.5,
    "lease_ttl": 4.0,
    "lease_margin": 0.5,
    "sweep": 0.3,
    "force_after": 2.0,
    "grace": 0.5,
}
SHORT_LEASE: dict[str, Any] = {**QUICK, "renew": 0.3, "lease_ttl": 1.5, "lease_margin": 0.4}
DEFAULTS: dict[str, Any] = {"sqlite_synchronous": "NORMAL", "grace": 0.5}
HOSTS = ("host-a", "host-b", "host-c")
CHUNK = 60
"""Faults of a leg: its history is checked when it is over, and a leg more means a fresh store."""


@dataclass(frozen=True, slots=True)
class Leg:
    name: str
    settings: dict[str, Any]
    faults: tuple[Fault, ...]
    hosts: Sequence[str | None] = (None, None, None)
    failover: bool = False
    small_disk: bool = False
    clock_jumps: bool = False

    @property
    def lasts(self) -> float:
        """A guess, in seconds, for the ETA."""
        return 4.0 + sum(fault.lasts for fault in self.faults)


@dataclass(slots=True)
class Plan:
    """How often each fault strikes."""

    random_kills: int
    kills_at_each_point: int
    pauses: int
    other_host_kills: int
    slow_kills: int
    slow_other_host_kills: int
    restarts: int
    each_redis_fault: int
    failovers: int
    store_faults: int
    legs: list[Leg] = field(default_factory=list[Leg])


def plan_for(minutes: float) -> Plan:
    """Under 10 minutes: every fault at least once. From 10 on in proportion, so that 30 reach what the
    report must show: 1,000 kills, 20 at each point, 50 restarts, 50 pauses."""
    if minutes < 10:
        return Plan(24, 4, 3, 3, 1, 1, 2, 1, 1, 1)

    def share(at_thirty: int, least: int = 1) -> int:
        return max(least, round(at_thirty * minutes / 30))

    return Plan(
        random_kills=share(620),
        kills_at_each_point=share(44),
        pauses=share(60),
        other_host_kills=share(30),
        slow_kills=share(12),
        slow_other_host_kills=share(4),
        restarts=share(52),
        each_redis_fault=share(6),
        failovers=share(4),
        store_faults=share(4),
    )


def legs_of(plan: Plan, rng: random.Random) -> list[Leg]:
    kills = many(plan.random_kills, Kill) + [
        Kill(point) for point in POINTS for _ in range(plan.kills_at_each_point)
    ]
    short = many(plan.pauses, Pause) + many(plan.other_host_kills, Kill)
    slow = many(plan.slow_kills, Kill) + many(plan.restarts, Restart)
    for fault in (Flush, Freeze, Delay, Reset, DropReply):
        slow += many(plan.each_redis_fault, fault)
    slow += [BlackHole(everybody=at % 2 == 1) for at in range(plan.each_redis_fault + 1)]
    slow += many(plan.store_faults, Lock)
    jumps: list[Fault] = []
    for jump in (3600, -3600):
        jumps += [ClockJump(jump, everybody=at % 2 == 1) for at in range(plan.store_faults + 1)]
    legs = [
        *chunks("kills", QUICK, kills, rng),
        *chunks("leases", SHORT_LEASE, short, rng, hosts=HOSTS),
        *chunks("defaults", DEFAULTS, slow, rng),
        *chunks("clock", DEFAULTS, jumps, rng, clock_jumps=True),
        *chunks("failover", DEFAULTS, many(plan.failovers, Failover), rng, failover=True),
        *chunks("hosts", DEFAULTS, many(plan.slow_other_host_kills, Kill), rng, hosts=HOSTS),
        *chunks("disk", DEFAULTS, many(plan.store_faults, Full), rng, small_disk=True),
    ]
    rng.shuffle(legs)
    return legs


def many(count: int, make: Callable[[], Fault]) -> list[Fault]:
    return [make() for _ in range(count)]


def chunks(
    name: str, settings: dict[str, Any], faults: list[Fault], rng: random.Random, **options: Any
) -> list[Leg]:
    rng.shuffle(faults)
    return [
        Leg(f"{name}{at // CHUNK + 1}", settings, tuple(faults[at : at + CHUNK]), **options)
        for at in range(0, len(faults), CHUNK)
    ]
