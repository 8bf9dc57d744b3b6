"""The faults of a seed, and how often each strikes.

Every seed has only some of them ("swarm testing"): if all strike at once, each hides the effects of others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

STRIKES = ("slow", "fail", "crash", "pause", "cancel")
"""What may happen at an await point, before the commit or after it."""


@dataclass
class Faults:
    """Shares between 0 and 1; `crashes` and `pauses` are how many a seed may have."""

    strike: dict[str, float] = field(default_factory=dict[str, float])
    lose: float = 0.0
    repeat: float = 0.0
    late: float = 0.0
    crashes: int = 0
    pauses: int = 0
    outages: int = 0
    cuts: int = 0
    """How often one process alone does not reach the store for a while."""
    burials: int = 0
    """How often a live worker is declared dead, by a wrong proof or by an operator."""
    jumps: int = 0
    broken: float = 0.0
    """How often the undoing of a rollback fails by itself."""
    connected: bool = False
    """Hints travel between processes; if not, every process receives only its own."""
    breaks: int = 0
    """How often the transport of a process goes away for a while, or all that it keeps is flushed."""
    proofs: bool = False
    """All processes are on one host: a dead one is proven dead."""
    locks: int = 0
    """How often a foreign session holds the rows of a thread and its runs for a while."""
    disordered: bool = False
    """Calls of one process, and their answers, may overtake each other, as with a pool of connections."""

    @property
    def none(self) -> bool:
        """Nothing goes wrong."""
        planned = self.crashes, self.pauses, self.outages, self.cuts, self.burials, self.jumps, self.breaks
        at_random = *self.strike.values(), self.lose, self.late, self.broken
        return not (any(planned) or self.locks or any(at_random))


def draw(chance: Random) -> Faults:
    def some(share: float) -> bool:
        return chance.random() < share

    faults = Faults(connected=some(0.6), proofs=some(0.4), disordered=some(0.3))
    if some(0.1):
        return faults  # nothing goes wrong
    faults.strike["slow"] = chance.choice((0.0, 0.05, 0.2))
    if some(0.5):
        faults.strike["fail"] = chance.choice((0.02, 0.05, 0.15))
    if some(0.4):
        faults.strike["cancel"] = chance.choice((0.05, 0.2))
    if some(0.4):
        faults.crashes = chance.choice((1, 1, 2))
        faults.strike["crash"] = chance.choice((0.01, 0.05))
    if some(0.3):
        faults.pauses = chance.choice((1, 2))
        faults.strike["pause"] = chance.choice((0.01, 0.05))
    if faults.connected:
        faults.lose = chance.choice((0.0, 0.1, 0.5))
        faults.repeat = chance.choice((0.0, 0.3))
        faults.late = chance.choice((0.0, 0.2, 0.6))
        faults.breaks = chance.choice((0, 0, 1))
    if some(0.2):
        faults.broken = chance.choice((0.3, 1.0))
    faults.outages = int(some(0.15))
    faults.cuts = int(some(0.15))
    faults.burials = int(some(0.1))
    faults.jumps = int(some(0.15))
    return faults


def mix(faults: Faults, chance: Random) -> None:
    """For worlds without a scene: faults that no scene has, beside any others that were drawn."""
    if not faults.none and chance.random() < 0.3:
        faults.locks = chance.choice((1, 2))
