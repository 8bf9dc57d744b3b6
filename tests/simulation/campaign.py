"""Many seeds over several processes: what was met, what was wrong, how long it took."""

from __future__ import annotations

import gc
import json
import multiprocessing
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

from tests.simulation import stand_ins
from tests.simulation.bugs import BUGS
from tests.simulation.store import Database
from tests.simulation.world import Met, World

BATCH = 250
SEEDS = Path(__file__).parent / "bugs/seeds.json"


@dataclass
class Batch:
    """The results of some seeds."""

    seeds: int = 0
    seconds: float = 0.0
    """CPU time of this process: the machine may be busy with something else."""
    failed: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    met: Counter[Met] = field(default_factory=Counter[Met])

    def add(self, other: Batch) -> None:
        self.seeds += other.seeds
        self.seconds += other.seconds
        self.failed.update(other.failed)
        self.met.update(other.met)


@contextmanager
def laboratory() -> Generator[None]:
    """Installs the stand-ins, and silences the errors of a killed process: its tasks are destroyed while they
    wait, and errors of their `finally` clauses have no caller."""
    hook = sys.unraisablehook
    sys.unraisablehook = _ignore
    was_enabled = gc.isenabled()
    try:
        with stand_ins.installed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
            gc.freeze()
            gc.disable()
            yield
            gc.collect()
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
        sys.unraisablehook = hook


def _ignore(what: object) -> None:
    del what


def run_seed(
    seed: int, database: Database, batch: Batch | None = None, trace: Callable[[str], None] | None = None
) -> list[str]:
    world = World(seed, database, trace)
    violations = world.run()
    if batch is not None:
        batch.seeds += 1
        batch.met.update(world.met)
        if violations:
            batch.failed[seed] = violations
    world.end()
    return violations


def run_batch(seeds: Iterable[int]) -> Batch:
    batch, began = Batch(), time.process_time()
    with laboratory(), closing(Database()) as database:
        for number, seed in enumerate(seeds):
            run_seed(seed, database, batch)
            if number % 10 == 9:
                gc.collect()
    batch.seconds = time.process_time() - began
    return batch


def run_seeds(seeds: Sequence[int], jobs: int) -> Iterator[Batch]:
    """Batches as they come in, from `jobs` processes."""
    parts = [seeds[begin : begin + BATCH] for begin in range(0, len(seeds), BATCH)]
    if jobs == 1:
        yield from map(run_batch, parts)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(run_batch, parts)


@dataclass
class Hunt:
    """How a planted bug was found; `seed` is None where it was not."""

    bug: str
    seed: int | None
    tried: int
    seconds: float
    violation: str


def hunt(name: str, most: int, known: int | None = None) -> Hunt:
    """Plant a bug and try seeds until one finds it, first the one that is `known` to."""
    began = time.process_time()
    seeds = range(most) if known is None else chain((known,), range(most))
    with laboratory(), BUGS[name].planted(), closing(Database()) as database:
        for tried, seed in enumerate(seeds, 1):
            if violations := run_seed(seed, database):
                return Hunt(name, seed, tried, time.process_time() - began, violations[0])
            if tried % 10 == 0:
                gc.collect()
    return Hunt(name, None, most, time.process_time() - began, "")


def hunt_all(names: Iterable[str], most: int, jobs: int) -> Iterator[Hunt]:
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        known = known_seeds()
        yield from pool.imap_unordered(partial(_hunt, most=most), [(name, known.get(name)) for name in names])


def _hunt(bug: tuple[str, int | None], most: int) -> Hunt:
    name, known = bug
    return hunt(name, most, known)


def known_seeds() -> dict[str, int]:
    """Returns the seed that finds each bug. A change of the product or of the world changes the seeds: if a
    seed does not find its bug, others are tried, and `--remember` writes down the one that does."""
    return json.loads(SEEDS.read_text("utf-8"))


def remember(hunts: Iterable[Hunt]) -> None:
    seeds = known_seeds() | {hunt.bug: hunt.seed for hunt in hunts if hunt.seed is not None}
    SEEDS.write_text(json.dumps(seeds, indent=1, sort_keys=True) + "\n", "utf-8")
