"""Redis is killed: runs, cancels and strategies go on, slower; and all is fast again when it is back."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from coordinator.cli.demo.claims.claim import Figures
from coordinator.cli.demo.figures import percentile, say_spread, seconds, spread
from coordinator.cli.demo.process import Refused
from coordinator.cli.demo.stage import Stage
from coordinator.cli.failures import CommandFailed
from coordinator.cli.text import span

CANCELS = 10
SLOW_LIMIT = 2.0
"""s; every cancel without Redis: the short tick with its jitter, and room for a busy machine."""
FAST = 0.25
"""s; what counts as fast again."""
FAST_IN_A_ROW = 5
HEALS_WITHIN = 2.0


@dataclass(frozen=True, slots=True)
class Evidence:
    noticed: float
    """Seconds from the kill until all workers knew."""
    cancels: tuple[float, ...]
    """Seconds from the call to the CancelledError, without Redis."""
    strategies: dict[str, str]
    """What each strategy came to without Redis: "ok", or what went wrong."""
    healed: float
    """Seconds from Redis being back to the first of several fast cancels in a row."""
    after: tuple[float, ...]
    """Those cancels."""


async def measure(stage: Stage) -> Evidence:
    server = stage.server
    if server is None:
        raise CommandFailed("NotOurs", "this Redis is not the demo's to kill")
    killed = time.monotonic()
    server.kill()
    await stage.disconnected(within=5.0)
    noticed = time.monotonic() - killed
    cancels = [await _cancel(stage) for _ in range(CANCELS)]
    strategies = {
        "reject": await _reject(stage),
        "interrupt": await _replace(stage, "interrupt"),
        "rollback": await _replace(stage, "rollback"),
        "enqueue": await _enqueue(stage),
    }
    server.start()  # from the thread that started it first: the server ends together with its parent
    back = time.monotonic()
    healed, after = await _until_fast(stage, back)
    return Evidence(noticed, tuple(cancels), strategies, healed, tuple(after))


async def _cancel(stage: Stage) -> float:
    run_id = (await stage.a.admit(stage.thread(), seconds=30))["run_id"]
    await stage.moments.of(run_id, "started")
    answer = await stage.b.cancel(run_id)
    return seconds(answer["called"], (await stage.moments.of(run_id, "cancelled")).at)


async def _reject(stage: Stage) -> str:
    thread = stage.thread()
    run_id = (await stage.a.admit(thread, seconds=30))["run_id"]
    try:
        await stage.b.admit(thread)
    except Refused as error:
        named = error.kind == "ConflictError" and error.active_run_id == run_id
        return "ok" if named else f"refused with {error.kind}"
    finally:
        await stage.c.cancel(run_id)
    return "two runs at once"


async def _replace(stage: Stage, strategy: str) -> str:
    thread = stage.thread()
    old = (await stage.a.admit(thread, save={"spoilt": True}, seconds=30, unwind=0.05))["run_id"]
    await stage.moments.of(old, "saved")
    new = (await stage.b.admit(thread, strategy))["run_id"]
    started = await stage.moments.of(new, "started")
    stopped = await stage.moments.of(old, "stopped")
    await stage.c.wait(new)
    values = (await stage.c.ask("thread", thread=thread))["values"]
    if started.at < stopped.at:
        return "the new run started before the old task had stopped"
    return "ok" if values == (None if strategy == "rollback" else {"spoilt": True}) else f"left {values!r}"


async def _enqueue(stage: Stage) -> str:
    thread = stage.thread()
    workers = list(stage.workers.values())
    admitted = [(await worker.admit(thread, "enqueue", seconds=0.01))["run_id"] for worker in workers]
    started = [(await stage.moments.of(run_id, "started")).at for run_id in admitted]
    return "ok" if started == sorted(started) else "out of order"


async def _until_fast(stage: Stage, back: float) -> tuple[float, list[float]]:
    """Raises TimeoutError where it never gets fast."""
    async with asyncio.timeout(10.0):
        while True:
            await stage.connected(within=10.0)
            healed = time.monotonic() - back
            row = [await _cancel(stage) for _ in range(FAST_IN_A_ROW)]
            if max(row) <= FAST:
                return healed, row


def check(found: Evidence) -> list[str]:
    problems: list[str] = []
    if len(found.cancels) < CANCELS:
        problems.append(f"only {len(found.cancels)} of {CANCELS} cancels were delivered without Redis")
    if not percentile(found.cancels, 1.0) <= SLOW_LIMIT:
        problems.append(f"a cancel without Redis took {span(percentile(found.cancels, 1.0))}")
    problems += [
        f"{name} without Redis: {came_to}"
        for name in ("reject", "interrupt", "rollback", "enqueue")
        if (came_to := found.strategies.get(name, "not tried")) != "ok"
    ]
    if not found.healed <= HEALS_WITHIN:
        problems.append(f"fast again only {span(found.healed)} after Redis was back")
    if len(found.after) < FAST_IN_A_ROW or max(found.after) > FAST:
        problems.append("cancels did not get fast again")
    return problems


def figures(found: Evidence) -> Figures:
    text = (
        f"without: cancels {say_spread(found.cancels)}; fast again {span(found.healed)} after it is back"
        f" ({say_spread(found.after)})"
    )
    measured = {
        "noticed_s": found.noticed,
        "cancel_without_redis": spread(found.cancels),
        "strategies": found.strategies,
        "healed_s": found.healed,
        "cancel_after": spread(found.after),
    }
    return Figures(text, measured)
