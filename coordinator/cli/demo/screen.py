"""How the demo is watched: a live view on a terminal, plain lines elsewhere, nothing with --json."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from coordinator.cli import screen
from coordinator.cli.demo.report import Report, Result
from coordinator.cli.demo.stage import Stage
from coordinator.cli.text import span

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from coordinator.cli.demo.claims.claim import Claim

_RUNS_SHOWN = 6


class Watcher(Protocol):
    live: bool
    """Does it want to know every moment how the workers are?"""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def ready(self, stage: Stage, setup: float) -> None: ...
    def begins(self, number: int, claim: Claim) -> None: ...
    def ended(self, result: Result) -> None: ...


class Silent:
    """For --json: the document is all."""

    live = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def ready(self, stage: Stage, setup: float) -> None:
        return None

    def begins(self, number: int, claim: Claim) -> None:
        return None

    def ended(self, result: Result) -> None:
        return None


class Lines(Silent):
    """One line a claim."""

    def __init__(self, total: int) -> None:
        self._total = total

    def ready(self, stage: Stage, setup: float) -> None:
        workers = ", ".join(
            f"{worker.name} (epoch {worker.epoch}, pid {worker.pid})" for worker in stage.workers.values()
        )
        print(f"set up in {span(setup)}: workers {workers}", flush=True)

    def ended(self, result: Result) -> None:
        head = f"[{result.number}/{self._total}] {result.name}: {result.says}"
        print(f"{head} ... {result.verdict}  {result.outcome}  ({span(result.seconds)})", flush=True)


class Live(Silent):
    """Claims with what was measured, the workers, and their latest runs; drawn several times a second."""

    live = True

    def __init__(self, claims: Sequence[Claim], out: Console) -> None:
        from rich.live import Live as RichLive

        self._claims, self._out = claims, out
        self._stage: Stage | None = None
        self._current = 0
        self._results: dict[int, Result] = {}
        self._live = RichLive(console=out, get_renderable=self._draw, refresh_per_second=10, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def ready(self, stage: Stage, setup: float) -> None:
        self._stage = stage

    def begins(self, number: int, claim: Claim) -> None:
        self._current = number

    def ended(self, result: Result) -> None:
        self._results[result.number] = result

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.spinner import Spinner

        if self._stage is None:
            return Spinner("dots", "starting a server and three workers")
        return Group(
            self._claims_table(), "", self._workers_table(self._stage), "", self._runs_table(self._stage)
        )

    def _claims_table(self) -> Table:
        rows: list[list[object]] = []
        for number, claim in enumerate(self._claims, start=1):
            result = self._results.get(number)
            if result is not None:
                rows.append([number, claim.says, screen.state(result.verdict), result.outcome])
            else:
                state = screen.cell("running", "cyan") if number == self._current else ""
                rows.append([number, claim.says, state, ""])
        return screen.table(("", "CLAIM", "", "MEASURED"), rows, terminal=True)

    def _workers_table(self, stage: Stage) -> Table:
        latest = list(stage.moments.latest.values())
        rows: list[list[object]] = []
        for worker in stage.workers.values():
            active = sum(name == worker.name and what != "stopped" for name, what in latest)
            state = "live" if worker.alive else "dead"
            rows.append(
                [
                    worker.name,
                    worker.epoch,
                    worker.pid,
                    screen.state(state),
                    worker.connectivity if worker.alive else None,
                    active if worker.alive else None,
                ]
            )
        return screen.table(("WORKER", "EPOCH", "PID", "STATE", "REDIS", "RUNS"), rows, terminal=True)

    def _runs_table(self, stage: Stage) -> Table:
        rows = [
            [run_id, worker, what]
            for run_id, (worker, what) in list(stage.moments.latest.items())[-_RUNS_SHOWN:]
        ]
        return screen.table(("LATEST RUNS", "WORKER", "LAST SEEN"), rows, terminal=True)


def summarise(report: Report) -> None:
    out = screen.console()
    rows = [
        [
            result.number,
            result.says,
            result.outcome,
            span(result.seconds),
            screen.state(result.verdict),
        ]
        for result in report.results
    ]
    out.print()
    out.print(screen.table(("", "CLAIM", "MEASURED", "TIME", ""), rows, terminal=out.is_terminal))
    for result in report.results:
        for problem in result.problems[1:]:
            out.print(screen.cell(f"  {result.number}: {problem}"))
    out.print()
    failed = sum(bool(result.problems) for result in report.results)
    skipped = sum(result.skipped is not None for result in report.results)
    verdict = f"{failed} FAILED" if failed else "all hold"
    if skipped:
        verdict += f", {skipped} SKIPPED: not shown at all"
    server = report.redis_version or "your Redis"
    where = f"{report.workers} workers, {report.store} and {server}"
    text = f"{len(report.results)} claims, {verdict}; {span(report.seconds)} on {where}"
    out.print(screen.cell(text, "bold red" if failed else "bold yellow" if skipped else "bold green"))
    if not failed:
        out.print(screen.cell(f"Next, a server to try: {_this_command()} dev"))


def _this_command() -> str:
    """As its user can type it again."""
    program = Path(sys.argv[0])
    installed = shutil.which("coordinator")
    if not program.is_file() or (installed is not None and Path(installed).samefile(program)):
        return "coordinator"
    return os.path.relpath(program)
