"""The calls of clients and their times: a weighted choice, drawn from the seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

RUNS = ("reject", "enqueue", "interrupt", "rollback", "keyed")
WEIGHTS = {
    "reject": 3,
    "enqueue": 4,
    "interrupt": 4,
    "rollback": 3,
    "keyed": 2,
    "create": 1,
    "cancel": 8,
    "disconnect": 1,
    "wait": 3,
    "follow": 1,
    "read": 2,
    "look": 1,
    "reconcile": 1,
    "update": 1,
    "copy": 1,
    "delete": 1,
    "completion": 1,
    "counters": 1,
    "cleanup": 1,
    "status": 1,
    "make": 1,
    "change": 1,
    "list": 1,
    "remove": 1,
    "leave": 1,
}
IN_SCENES = ("request drain", "forget", "keep latest")
"""Calls that occur only in scenes."""


@dataclass
class Features:
    """The project's features that a seed uses: all at once would hide the effects of each."""

    limits: bool = False
    """Runs have time limits."""
    families: bool = False
    """Runs have children."""
    users: bool = False
    """Threads belong to a user, and another user tries to use them, too."""
    old_style: bool = False
    """Some callers bring a task of their own."""
    portable: bool = False
    """All processes have an assistant: another process executes its queued runs if their home leaves."""
    delays: bool = False
    """Some runs are admitted with a delay."""
    elsewhere: bool = False
    """The portable assistant keeps the state of threads in a database of its own. Only in scenes."""
    retries: int | None = None
    """The portable assistant takes steps that it saves, and has so many retries."""
    dispatch: bool = False
    """The first process only admits."""
    threads: int | None = None
    """The number of threads; None = one or two."""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """Settings that differ from the usual ones."""


PLACES = ("max_running", "max_running_per_assistant", "max_running_per_user")
"""Settings that limit the runs which a process executes at the same time."""

SHORT_MEMORY = {
    "keep_finished": 0.5,
    "keep_runs": 1.0,
    "keep_transitions": 1.0,
    "keep_workers": 1.0,
    "prune": 0.7,
}


def draw(chance: Random) -> Features:
    def some(share: float) -> bool:
        return chance.random() < share

    features = Features(some(0.25), some(0.25), some(0.25), some(0.25), some(0.4), some(0.3))
    if some(0.2):
        features.settings.update(SHORT_MEMORY)
    if some(0.2):
        features.settings["outbox_limit"] = chance.choice((1, 2))
    return features


def mix(features: Features, chance: Random) -> None:
    """For worlds without a scene: what else is used in scenes alone, beside anything that was drawn."""

    def some(share: float) -> bool:
        return chance.random() < share

    if features.portable and some(0.5):
        features.retries = chance.choice((0, 1, 2))
    if features.portable and some(0.2):
        features.dispatch = True
    if some(0.3):
        features.settings[chance.choice(PLACES)] = chance.choice((1, 1, 2))


def plan(chance: Random, most: int = 8) -> list[tuple[float, str]]:
    """Returns times (s, from the beginning) and calls. The first call admits a run."""
    calls = [name for name in WEIGHTS if chance.random() < 0.6]
    calls.append(chance.choice(("reject", "enqueue", "interrupt", "rollback")))
    runs = [call for call in calls if call in RUNS]
    weights = [WEIGHTS[call] for call in calls]
    number = min(most, chance.choice((3, 4, 5, 6, 8)))
    planned = [(chance.uniform(0, 0.1), chance.choice(runs))]
    burst = chance.random() < 0.4
    for _ in range(number - 1):
        when = chance.uniform(0.0, 0.05 if burst else 3.0)
        planned.append((when, chance.choices(calls, weights)[0]))
    return planned
