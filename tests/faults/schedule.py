"""Which faults strike where, how often, in which order: all of it follows from the seed and the minutes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from tests.faults.clock import ClockJump
from tests.faults.fault import Fault
from tests.faults.file import GateCopied, Lock, Moved, TooBig
from tests.faults.mortal import POINTS
from tests.faults.network import Hole, Middlebox
from tests.faults.outage import Full
from tests.faults.processes import Kill, Pause
from tests.faults.redis import BlackHole, Delay, DropReply, Failover, Flush, Freeze, Refuse, Reset, Restart
from tests.faults.server import (
    CutOff,
    Frozen,
    LostAnswers,
    ServerDiskFull,
    ServerRestart,
    Storm,
    StrangersLock,
)

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
LONG_LEASE: dict[str, Any] = {**DEFAULTS, "lease_ttl": 60.0}
"""Longer than networks are silent."""
HOSTS = ("host-a", "host-b", "host-c")
CHUNK = 60
"""Faults of a leg: its history is checked when it is over, and a leg more means a fresh store."""


@dataclass(frozen=True, slots=True)
class Leg:
    name: str
    settings: dict[str, Any]
    faults: tuple[Fault, ...]
    hosts: Sequence[str | None] = (None, None, None)
    store: str = "sqlite"
    redis: bool = True
    failover: bool = False
    small_disk: bool = False
    clock_jumps: bool = False

    @property
    def lasts(self) -> float:
        """A guess, in seconds, for the ETA."""
        return 4.0 + sum(fault.lasts for fault in self.faults)


@dataclass(frozen=True, slots=True)
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


_SHORT = {
    "sqlite": Plan(
        random_kills=24,
        kills_at_each_point=4,
        pauses=3,
        other_host_kills=3,
        slow_kills=1,
        slow_other_host_kills=1,
        restarts=2,
        each_redis_fault=1,
        failovers=1,
        store_faults=1,
    ),
    "postgres": Plan(
        random_kills=8,
        kills_at_each_point=1,
        pauses=2,
        other_host_kills=0,
        slow_kills=1,
        slow_other_host_kills=0,
        restarts=1,
        each_redis_fault=1,
        failovers=1,
        store_faults=1,
    ),
}
_IN_THIRTY_MINUTES = {
    "sqlite": Plan(
        random_kills=620,
        kills_at_each_point=44,
        pauses=60,
        other_host_kills=30,
        slow_kills=12,
        slow_other_host_kills=4,
        restarts=52,
        each_redis_fault=6,
        failovers=4,
        store_faults=4,
    ),
    "postgres": Plan(
        random_kills=150,
        kills_at_each_point=15,
        pauses=30,
        other_host_kills=0,
        slow_kills=6,
        slow_other_host_kills=0,
        restarts=12,
        each_redis_fault=4,
        failovers=3,
        store_faults=6,
    ),
}


def plan_for(minutes: float, store: str = "sqlite") -> Plan:
    """Under 10 minutes: every fault at least once. From 10 on in proportion, so that on a file 30 reach what
    the report must show: 1,000 kills, 20 at each point, 50 restarts, 50 pauses."""
    if minutes < 10:
        return _SHORT[store]
    share = minutes / 30
    counts = astuple(_IN_THIRTY_MINUTES[store])
    return Plan(*(max(min(count, 1), round(count * share)) for count in counts))


def legs_of(plan: Plan, rng: random.Random, store: str = "sqlite") -> list[Leg]:
    legs = on_file(plan, rng) if store == "sqlite" else on_server(plan, rng)
    rng.shuffle(legs)
    return legs


def on_file(plan: Plan, rng: random.Random) -> list[Leg]:
    kills = many(plan.random_kills, Kill) + [
        Kill(point) for point in POINTS for _ in range(plan.kills_at_each_point)
    ]
    short = many(plan.pauses, Pause) + many(plan.other_host_kills, Kill)
    slow = many(plan.slow_kills, Kill) + of_redis(plan) + many(plan.store_faults, Lock)
    room = many(plan.store_faults, Full) + many(plan.store_faults, TooBig)
    files = many(plan.store_faults, GateCopied) + many(plan.store_faults, Moved)
    return [
        *chunks("kills", QUICK, kills, rng),
        *chunks("leases", SHORT_LEASE, short, rng, hosts=HOSTS),
        *chunks("defaults", DEFAULTS, slow, rng),
        *chunks("clock", DEFAULTS, jumps(plan), rng, clock_jumps=True),
        *chunks("failover", DEFAULTS, many(plan.failovers, Failover), rng, failover=True),
        *chunks("hosts", DEFAULTS, many(plan.slow_other_host_kills, Kill), rng, hosts=HOSTS),
        *chunks("disk", DEFAULTS, room, rng, small_disk=True),
        *chunks("files", QUICK, files, rng),
    ]


def on_server(plan: Plan, rng: random.Random) -> list[Leg]:
    """Nothing proves a death there, so every kill takes a lease: a short one, and there are fewer kills."""
    kills = many(plan.random_kills, Kill) + [
        Kill(point) for point in POINTS for _ in range(plan.kills_at_each_point)
    ]
    short = many(plan.pauses, Pause) + many(plan.pauses, CutOff)
    server: list[Fault] = []
    for fault in (ServerRestart, Storm, LostAnswers, StrangersLock, Frozen):
        server += many(plan.store_faults, fault)
    silence = many(plan.store_faults, Hole) + many(plan.store_faults, Middlebox)
    slow = many(plan.slow_kills, Kill) + of_redis(plan)
    full = many(plan.store_faults, ServerDiskFull)
    options: dict[str, Any] = {"store": "postgres"}
    return [
        *chunks("kills", SHORT_LEASE, kills, rng, **options),
        *chunks("leases", SHORT_LEASE, short, rng, **options),
        *chunks("defaults", DEFAULTS, slow, rng, **options),
        *chunks("server", DEFAULTS, server, rng, **options),
        *chunks("network", LONG_LEASE, silence, rng, **options),
        *chunks("notify", DEFAULTS, list(server), rng, redis=False, **options),
        *chunks("clock", DEFAULTS, jumps(plan), rng, clock_jumps=True, **options),
        *chunks("failover", DEFAULTS, many(plan.failovers, Failover), rng, failover=True, **options),
        *chunks("disk", DEFAULTS, full, rng, small_disk=True, **options),
    ]


def of_redis(plan: Plan) -> list[Fault]:
    faults = many(plan.restarts, Restart)
    for fault in (Flush, Freeze, Delay, Reset, DropReply):
        faults += many(plan.each_redis_fault, fault)
    rights = ("publish", "evalsha", "set", "hset")
    faults += [Refuse(rights[at % len(rights)]) for at in range(plan.each_redis_fault)]
    return faults + [BlackHole(all_workers=at % 2 == 1) for at in range(plan.each_redis_fault + 1)]


def jumps(plan: Plan) -> list[Fault]:
    return [
        ClockJump(jump, all_workers=at % 2 == 1)
        for jump in (3600, -3600)
        for at in range(plan.store_faults + 1)
    ]


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
