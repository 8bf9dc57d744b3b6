"""The demo from its set-up to its summary. On a terminal it has a live view, elsewhere it prints a line for
each claim, and with --json one document (see `coordinator.cli.documents`)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.cli import screen
from coordinator.cli.access import redis_must_answer
from coordinator.cli.demo.claims import CLAIMS, Claim, ClaimFailed
from coordinator.cli.demo.stage import Refused, Stage, set_up
from coordinator.cli.failures import DONE, FAILED, CommandFailed, warn
from coordinator.cli.text import span

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

CLAIM_LIMIT = 45.0
"""Seconds for one claim."""

_MISSING = (
    "SKIPPED: {} not installed; pip install 'run-coordinator[demo]' installs all that the demo can show"
)
_SKIPPED = "SKIPPED: it kills Redis, and yours is not the demo's to kill; run it without --redis"

Result = dict[str, Any]


async def demonstrate(
    redis: str | None, *, as_json: bool, on_postgres: bool = False, claims: Sequence[Claim] = CLAIMS
) -> int:
    """Plays the demo and returns the exit status, which is FAILED if a claim does not hold."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is not None:  # SIGTERM and a closed terminal clean up as Ctrl-C does
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
    if redis is not None:
        await redis_must_answer(redis)
        if any(claim.kills_redis for claim in claims):
            warn("with --redis, the claim that kills Redis is SKIPPED and NOT shown")
    report = await Program(claims, silent=as_json).play(redis, on_postgres=on_postgres)
    if as_json:
        screen.show_document(report)
    else:
        summarise(report)
    return DONE if report["ok"] else FAILED


class Program:
    def __init__(self, claims: Sequence[Claim], *, silent: bool) -> None:
        self._claims, self._silent = claims, silent
        self._stage: Stage | None = None
        self._results: list[Result] = []

    async def play(self, redis: str | None, *, on_postgres: bool = False) -> dict[str, Any]:
        """Plays every claim, one after another, also after a claim that failed. Returns the report."""
        from rich.live import Live

        out, began = screen.console(), time.monotonic()
        live = not self._silent and out.is_terminal
        view = Live(console=out, get_renderable=self._draw, refresh_per_second=10, transient=True)
        print_line = screen.console().out if not self._silent and not live else _nothing
        with view if live else nullcontext():
            async with set_up(redis, on_postgres=on_postgres) as stage:
                self._stage, setup = stage, time.monotonic() - began
                refreshing = asyncio.create_task(_refresh_always(stage)) if live else None
                print_line(
                    f"set up in {span(setup)}: workers {', '.join(str(worker) for worker in stage.workers)}"
                )
                for number, claim in enumerate(self._claims, start=1):
                    self._results.append(result := await show(stage, number, claim))
                    tail = f"{verdict(result)}  {outcome(result)}  ({span(result['seconds'])})"
                    print_line(f"[{number}/{len(self._claims)}] {claim.name}: {claim.statement} ... {tail}")
                if refreshing is not None:
                    refreshing.cancel()
                report = {
                    "ok": bool(self._results) and not any(result["problems"] for result in self._results),
                    "seconds": round(time.monotonic() - began - setup, 3),
                    "setup_seconds": round(setup, 3),
                    "redis": {"own": redis is None, "version": stage.server and stage.server.version},
                    "store": "SQLite" if stage.postgres is None else stage.postgres.version,
                    "workers": len(stage.workers),
                }
        return report | {"claims": self._results}

    def _draw(self) -> RenderableType:
        """Returns the claims with their measurements, the workers, and their latest runs."""
        from rich.console import Group
        from rich.spinner import Spinner

        if (stage := self._stage) is None:
            return Spinner("dots", "starting a server and three workers")
        workers = list[list[object]]()
        for worker in stage.workers:
            active = sum(name == worker.name and what != "stopped" for name, what in stage.latest.values())
            state = ("live", worker.connectivity, active) if worker.alive else ("dead", None, None)
            workers.append([worker.name, worker.epoch, worker.pid, screen.state(state[0]), *state[1:]])
        runs = [[run_id, *moment] for run_id, moment in list(stage.latest.items())[-6:]]
        return Group(
            _table(self._results, self._claims[len(self._results) :], terminal=True),
            screen.table(("WORKER", "EPOCH", "PID", "STATE", "REDIS", "RUNS"), workers, terminal=True),
            screen.table(("LATEST RUNS", "WORKER", "LAST SEEN"), runs, terminal=True),
        )


def _nothing(*_: object) -> None:
    """Prints nothing."""


async def _refresh_always(stage: Stage) -> None:
    """Refreshes the state of the workers for the live view."""
    while True:
        with suppress(CommandFailed, Refused):
            await stage.refresh()
        await asyncio.sleep(0.25)


async def show(stage: Stage, number: int, claim: Claim) -> Result:
    """Plays one claim. An error is returned as a problem of the claim."""
    skipped, problem, text, measured, began = None, None, "", dict[str, Any](), time.monotonic()
    if claim.kills_redis and stage.server is None:
        skipped = _SKIPPED
    elif missing := [name for name in claim.needs if find_spec(name) is None]:
        skipped = _MISSING.format(", ".join(missing))
    else:
        try:
            async with asyncio.timeout(CLAIM_LIMIT):
                text, measured = await claim.show(stage)
        except (ClaimFailed, Refused, CommandFailed) as error:
            problem = str(error)
        except TimeoutError:
            problem = f"not completed within {span(time.monotonic() - began)}"
    return {
        "number": number,
        "name": claim.name,
        "claim": claim.statement,
        "ok": None if skipped else problem is None,
        "skipped": skipped,
        "problems": [problem] if problem else [],
        "seconds": round(time.monotonic() - began, 3),
        "text": text,
        "measured": measured,
    }


def verdict(result: Result) -> str:
    return {True: "ok", False: "FAILED", None: "SKIPPED"}[result["ok"]]


def outcome(result: Result) -> str:
    """Returns the measurements, the problems, or why the claim was skipped."""
    return result["skipped"] or " ".join(result["problems"]) or result["text"]


def _table(results: Sequence[Result], claims: Sequence[Claim] = (), *, terminal: bool) -> Table:
    """The table of results and remaining `claims`, the first of which is running."""
    rows: list[list[object]] = [
        [one["number"], one["claim"], outcome(one), span(one["seconds"]), screen.state(verdict(one))]
        for one in results
    ]
    for number, claim in enumerate(claims):
        rows.append(
            [len(results) + number + 1, claim.statement, "", "", screen.state("" if number else "running")]
        )
    return screen.table(("", "CLAIM", "MEASURED", "TIME", ""), rows, terminal=terminal)


def summarise(report: dict[str, Any]) -> None:
    out, verdicts = screen.console(), [verdict(claim) for claim in report["claims"]]
    out.print("", _table(report["claims"], terminal=out.is_terminal), "", sep="\n")
    failed, skipped = verdicts.count("FAILED"), verdicts.count("SKIPPED")
    text = f"{failed} FAILED" if failed else "all hold"
    text += f", {skipped} SKIPPED: not shown at all" if skipped else ""
    where = f"{report['workers']} workers, {report['store']} and {report['redis']['version'] or 'your Redis'}"
    line = f"{len(verdicts)} claims, {text}; {span(report['seconds'])} on {where}"
    out.print(screen.cell(line, "bold red" if failed else "bold yellow" if skipped else "bold green"))
    if not failed:
        program, installed = Path(sys.argv[0]), shutil.which("coordinator")
        given = program.is_file() and (installed is None or not Path(installed).samefile(program))
        command = os.path.relpath(program) if given else "coordinator"  # as the user can type it
        out.print(screen.cell(f"Next, a server to try: {command} dev"))
