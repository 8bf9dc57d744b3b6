"""Leg by leg: set up, strike, let it settle, check the histories and the file."""

from __future__ import annotations

import asyncio
import random
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

from tests.faults.audit import audit
from tests.faults.engine import Engine
from tests.faults.fault import Fault
from tests.faults.measures import Book
from tests.faults.postgres import on_postgres
from tests.faults.schedule import Leg
from tests.faults.sqlite import on_sqlite
from tests.faults.stage import DISK, Stage, set_up
from tests.histories import Line, Report, check, collect, read
from tests.histories.leases import lost_without_a_fault
from tests.histories.linearizability import UNDECIDED

BOUND = 10.0  # s; everything is settled so long after the last fault
BUDGET = 180.0  # s; for the search of one thread. Seventeen calls around a full disk took 26 s

SHORT_BUDGET = 40.0
"""The same in a test, which decides all threads of most of its histories."""

ZOMBIES_TRY = ("save", "emit")

CLOCK_BOUND = 2 * 3600 + BOUND  # where clocks jump by an hour, stamps do; `quiet` has timed it by then

_SMALL_DISK = {"sqlite": "24m", "postgres": "160m"}

Watcher = Callable[[Leg, Fault | None], None]
"""Called with each fault before it strikes, and with None at the end of a leg."""


async def run_all(
    legs: Iterable[Leg],
    seed: int,
    kept: Path,
    book: Book,
    watch: Watcher = lambda _leg, _fault: None,
    *,
    budget: float = BUDGET,
) -> None:
    """The files of a leg with violations are copied to `kept`. `budget`: as that of `check`; a thread that is
    not decided within it is skipped in the report, because it proves nothing."""
    for leg in legs:
        before = len(book.violations)
        with _folder(leg, book) as folder:
            if folder is None:
                continue
            await run_leg(leg, random.Random(f"{seed}/{leg.name}"), folder, book, watch, budget=budget)
            if len(book.violations) > before:
                violations = [what for _, what in book.violations[before:]]
                await asyncio.to_thread(_keep, folder, kept / leg.name, violations)
        watch(leg, None)


async def run_leg(
    leg: Leg, rng: random.Random, folder: Path, book: Book, watch: Watcher, *, budget: float
) -> None:
    async with (
        _engine(leg, folder / DISK) as engine,
        set_up(
            leg.name,
            folder,
            engine,
            leg.settings,
            book,
            rng=rng,
            hosts=leg.hosts,
            failover=leg.failover,
            redis=leg.redis,
        ) as stage,
    ):
        before = len(book.violations)
        for fault in leg.faults:
            watch(leg, fault)
            book.faults[fault.name] += 1
            try:
                await fault.strike(stage)
            except Exception as error:  # noqa: BLE001 - the report is to show it and the rest
                stage.violation(f"{fault.name}: {type(error).__name__}: {error}")
        await stage.quiet()
        await stage.leave()
        await audit(stage)
        report = await histories(stage, CLOCK_BOUND if leg.clock_jumps else BOUND, budget)
        for finding in report.findings:
            if finding.property == UNDECIDED:
                book.skipped.append(f"{leg.name}: {finding.to_markdown()}")
            else:
                stage.violation(finding.to_markdown())
        for name, count in report.counts.items():
            book.counts[f"history: {name}"] += count
        if len(book.violations) > before:
            await engine.keep(folder)


def _engine(leg: Leg, disk: Path) -> AbstractAsyncContextManager[Engine]:
    return on_sqlite(disk) if leg.store == "sqlite" else on_postgres(disk if leg.small_disk else None)


async def histories(stage: Stage, bound: float, budget: float) -> Report:
    lines = read(*sorted(stage.folder.glob("*.jsonl")))
    for line in lines:
        if line.kind == "fault" and line.what in ("unexpected", "old style failed"):
            stage.violation(f"{line}")
    count_zombies(lines, stage.book)
    threads = {line.thread for line in lines if line.thread is not None}
    store = stage.engine.store()
    await store.open()
    try:
        collected = await collect(store, threads)
    finally:
        await store.aclose()
    unexplained = lost_without_a_fault(lines)
    stage.book.counts["leases lost without a fault"] += len(unexplained)
    return await asyncio.to_thread(check, [*lines, *unexplained], collected, bound=bound, budget=budget)


def count_zombies(lines: list[Line], book: Book) -> None:
    """Counts the writes that dead workers tried after SIGCONT; `check` judges those that were accepted."""
    dead, woken = dict[str, int](), set[int | None]()
    tries = set[str | None]()
    for line in lines:
        if line.kind == "fault" and line.what == "declared_dead":
            dead[line.args["worker"]] = line.args["epoch"]
        elif line.kind == "fault" and line.what == "resumed":
            woken.add(dead.pop(line.args["worker"], None))
        elif line.kind == "call" and line.what in ZOMBIES_TRY and line.epoch in woken - {None}:
            tries.add(line.call)
            book.counts[f"tried by dead workers after waking: {line.what}"] += 1
        elif line.kind == "answer" and line.call in tries:
            how = "accepted" if line.outcome == "ok" else f"refused ({line.error})"
            book.counts[f"tried by dead workers after waking: {line.what} {how}"] += 1


@contextmanager
def _folder(leg: Leg, book: Book) -> Generator[Path | None]:
    with tempfile.TemporaryDirectory(prefix="rc-faults-") as name:
        disk = Path(name) / DISK
        disk.mkdir()
        if not leg.small_disk:
            yield Path(name)
            return
        Path(name).chmod(0o711)  # a server may run as another user
        size = _SMALL_DISK[leg.store]
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=711", "tmpfs", str(disk)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            book.skipped.append(f"disk full: no small file system can be mounted here: {done.stderr.strip()}")
            yield None
            return
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _keep(folder: Path, kept: Path, violations: list[str]) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_file():
            (kept / path.name).write_bytes(path.read_bytes())
    (kept / "violations.md").write_text("\n".join(violations) + "\n")
