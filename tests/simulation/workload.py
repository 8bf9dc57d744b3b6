"""What is asked for, and when: a weighted choice of calls, drawn from the seed."""

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
IN_SCENES = ("ask", "forget")
"""What only scenes ask for."""


@dataclass
class Features:
    """Which of the project's features a seed uses: all at once hide what each alone would show."""

    limits: bool = False
    """Runs have time limits."""
    families: bool = False
    """Runs have children."""
    users: bool = False
    """Threads belong to somebody, and somebody else asks for them, too."""
    old_style: bool = False
    """Some callers bring a task of their own."""
    portable: bool = False
    """All processes know an assistant: a run of it that waits goes on elsewhere when its home goes."""
    delays: bool = False
    """Some runs are asked for now and meant for later."""
    threads: int | None = None
    """How many there are; None = one or two."""
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """Other than usual."""


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


def plan(chance: Random, most: int = 8) -> list[tuple[float, str]]:
    """When what is asked for, in seconds from the beginning. A run comes first."""
    calls = [name for name in WEIGHTS if chance.random() < 0.6]
    calls.append(chance.choice(("reject", "enqueue", "interrupt", "rollback")))
    runs = [call for call in calls if call in RUNS]
    weights = [WEIGHTS[call] for call in calls]
    number = min(most, chance.choice((3, 4, 5, 6, 8)))
    asked = [(chance.uniform(0, 0.1), chance.choice(runs))]
    burst = chance.random() < 0.4
    for _ in range(number - 1):
        when = chance.uniform(0.0, 0.05 if burst else 3.0)
        asked.append((when, chance.choices(calls, weights)[0]))
    return asked
