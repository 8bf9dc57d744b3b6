"""The demo from its set-up to its summary: a line for each claim, and a table; with --json one document (see
`coordinator.cli.documents`)."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

from coordinator.cli import screen
from coordinator.cli.access import redis_must_answer
from coordinator.cli.demo.claims import CLAIMS, Claim, ClaimFailed
from coordinator.cli.demo.stage import Message, Refused, Stage, set_up
from coordinator.cli.failures import DONE, FAILED, CommandFailed, warn
from coordinator.cli.text import span

CLAIM_LIMIT = 45.0  # s
VERDICTS = {True: "ok", False: "FAILED", None: "SKIPPED"}


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
    report = await play(claims, redis, on_postgres=on_postgres, silent=as_json)
    if as_json:
        screen.show_document(report)
    else:
        summarise(report)
    return DONE if report["ok"] else FAILED


async def play(
    claims: Sequence[Claim], redis: str | None, *, on_postgres: bool = False, silent: bool = False
) -> Message:
    """Plays every claim, one after another, also after a claim that failed. Returns the report."""
    out, began, results = screen.console(), time.monotonic(), list[Message]()
    out.quiet = silent
    async with set_up(redis, on_postgres=on_postgres) as stage:
        setup = time.monotonic() - began
        workers = (f"{worker.name} (epoch {worker.epoch}, pid {worker.pid})" for worker in stage.workers)
        out.out(f"set up in {span(setup)}: workers {', '.join(workers)}")
        for number, claim in enumerate(claims, start=1):
            line = f"[{number}/{len(claims)}] {claim.name}: {claim.statement}"
            with out.status(screen.cell(line)) if out.is_terminal and not silent else nullcontext():
                results.append(result := await show(stage, number, claim))
            out.out(f"{line} ... {VERDICTS[result['ok']]}  {outcome(result)}  ({span(result['seconds'])})")
        ok = bool(results) and not any(result["problems"] for result in results)
        took = {"seconds": round(time.monotonic() - began - setup, 3), "setup_seconds": round(setup, 3)}
        servers = {
            "redis": {"own": redis is None, "version": stage.server and stage.server.version},
            "store": "SQLite" if stage.postgres is None else stage.postgres.version,
        }
    return {"ok": ok, **took, **servers, "workers": len(stage.workers), "claims": results}


async def show(stage: Stage, number: int, claim: Claim) -> Message:
    """Plays one claim. An error is returned as a problem of the claim."""
    skipped, problem, text, measured, began = None, None, "", Message(), time.monotonic()
    if claim.kills_redis and stage.server is None:
        skipped = "SKIPPED: it kills Redis, and yours is not the demo's to kill; run it without --redis"
    elif missing := [name for name in claim.needs if find_spec(name) is None]:
        skipped = f"SKIPPED: {', '.join(missing)} not installed; pip install 'run-coordinator[demo]'"
    else:
        try:
            async with asyncio.timeout(CLAIM_LIMIT):
                text, measured = await claim.show(stage)
        except (ClaimFailed, Refused, CommandFailed) as error:
            problem = str(error)
        except TimeoutError:
            problem = f"not completed within {span(time.monotonic() - began)}"
    took, ok = round(time.monotonic() - began, 3), None if skipped else problem is None
    played = {"number": number, "name": claim.name, "claim": claim.statement, "ok": ok, "skipped": skipped}
    problems = [problem] if problem else []
    return {**played, "problems": problems, "seconds": took, "text": text, "measured": measured}


def outcome(result: Message) -> str:
    """Returns the measurements, the problems, or why the claim was skipped."""
    return result["skipped"] or " ".join(result["problems"]) or result["text"]


def summarise(report: Message) -> None:
    out, verdicts = screen.console(), [VERDICTS[claim["ok"]] for claim in report["claims"]]
    rows = [
        (one["number"], one["claim"], outcome(one), span(one["seconds"]), screen.state(VERDICTS[one["ok"]]))
        for one in report["claims"]
    ]
    table = screen.table(("", "CLAIM", "MEASURED", "TIME", ""), rows, terminal=out.is_terminal)
    out.print("", table, "", sep="\n")
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
