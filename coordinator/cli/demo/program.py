"""The demo from its set-up to its summary."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec

from coordinator.cli import screen
from coordinator.cli.demo.claims import CLAIMS
from coordinator.cli.demo.claims.claim import Claim
from coordinator.cli.demo.process import Refused
from coordinator.cli.demo.report import SQLITE, Report, Result
from coordinator.cli.demo.screen import Lines, Live, Silent, Watcher, summarise
from coordinator.cli.demo.stage import Stage, set_up
from coordinator.cli.failures import DONE, FAILED, UNREACHABLE, CommandFailed, warn
from coordinator.cli.text import span

CLAIM_LIMIT = 45.0
"""s; for one claim."""

_MISSING = "SKIPPED: {} not installed; pip install 'run-coordinator[demo]' brings all that the demo can show"
_SKIPPED = "SKIPPED: it kills Redis, and yours is not the demo's to kill; run it without --redis"


async def demonstrate(
    redis: str | None, *, as_json: bool, on_postgres: bool = False, claims: Sequence[Claim] = CLAIMS
) -> int:
    """Failed where a claim does not hold."""
    _end_on_signals()
    if redis is not None:
        await _must_answer(redis)
        if any(claim.kills_redis for claim in claims):
            warn("with --redis, the claim that kills Redis is SKIPPED and NOT shown")
    report = await play(redis, _watcher(claims, as_json=as_json), claims, on_postgres=on_postgres)
    if as_json:
        screen.show_document(report.document())
    else:
        summarise(report)
    return DONE if report.ok else FAILED


def _end_on_signals() -> None:
    """SIGTERM and a closed terminal clean up as Ctrl-C does."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is not None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)


def _watcher(claims: Sequence[Claim], *, as_json: bool) -> Watcher:
    if as_json:
        return Silent()
    out = screen.console()
    return Live(claims, out) if out.is_terminal else Lines(len(claims))


async def _must_answer(redis: str) -> None:
    from coordinator.redis.link import RedisLink
    from coordinator.urls import redact_url

    try:
        link = RedisLink(redis, budget=2.0)
    except ValueError as error:
        from coordinator.errors import InvalidArgument

        raise InvalidArgument("redis", str(error)) from None
    try:
        if not await link.ping():
            raise CommandFailed(
                "RedisUnreachable",
                f"{redact_url(redis)} does not answer",
                "Start it, or run the demo without --redis: it brings its own server.",
                code=UNREACHABLE,
            )
    finally:
        await link.aclose()


async def play(
    redis: str | None, watcher: Watcher, claims: Sequence[Claim], *, on_postgres: bool = False
) -> Report:
    """Every claim, one after another. One that fails does not keep the next from being shown."""
    began = time.monotonic()
    with watcher:
        async with set_up(redis, on_postgres=on_postgres) as stage:
            setup = time.monotonic() - began
            watcher.ready(stage, setup)
            looking = asyncio.create_task(_look(stage)) if watcher.live else None
            version = stage.server.version if stage.server is not None else None
            store = stage.postgres.version if stage.postgres is not None else SQLITE
            results: list[Result] = []
            for number, claim in enumerate(claims, start=1):
                watcher.begins(number, claim)
                results.append(await show(stage, number, claim))
                watcher.ended(results[-1])
            if looking is not None:
                looking.cancel()
            seconds = time.monotonic() - began - setup
    return Report(tuple(results), seconds, setup, redis is None, version, len(stage.workers), store)


async def show(stage: Stage, number: int, claim: Claim) -> Result:
    """Measure, then check. What goes wrong on the way is a problem of the claim."""
    if claim.kills_redis and stage.server is None:
        return Result(number, claim.name, claim.says, skipped=_SKIPPED)
    if missing := [name for name in claim.needs if find_spec(name) is None]:
        return Result(number, claim.name, claim.says, skipped=_MISSING.format(", ".join(missing)))
    began = time.monotonic()
    try:
        async with asyncio.timeout(CLAIM_LIMIT):
            evidence = await claim.measure(stage)
    except (Refused, CommandFailed) as error:
        problems = (str(error),)
    except TimeoutError:
        problems = (f"not over within {span(time.monotonic() - began)}",)
    else:
        figures = claim.figures(evidence)
        return Result(
            number,
            claim.name,
            claim.says,
            time.monotonic() - began,
            figures.text,
            tuple(claim.check(evidence)),
            measured=figures.measured,
        )
    return Result(number, claim.name, claim.says, time.monotonic() - began, problems=problems)


async def _look(stage: Stage) -> None:
    """Keep what the live view shows of the workers up to date."""
    while True:
        for worker in stage.workers.values():
            with suppress(CommandFailed, Refused):
                await worker.refresh()
        await asyncio.sleep(0.25)
