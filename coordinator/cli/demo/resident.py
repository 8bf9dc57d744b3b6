"""demo-worker: a worker that stays, for a deployment to look at."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import sys
from contextlib import suppress

from coordinator.bootstrap import open_coordinator
from coordinator.cli.failures import DONE
from coordinator.context import RunContext
from coordinator.errors import CoordinatorError
from coordinator.manager import RunManager
from coordinator.settings import Settings

logger = logging.getLogger("coordinator.demo")


async def reside(settings: Settings, *, every: float, seconds: float, threads: int) -> int:
    """Until SIGTERM or SIGINT; then it drains. What fails is logged, and tried again."""
    _log_to_stderr()
    leave = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave.set)
    async with open_coordinator(settings=settings) as manager:
        logger.info("worker epoch %d is up, connectivity %s", manager.epoch, manager.connectivity)
        while not leave.is_set():
            try:
                await _admit(manager, f"demo-{random.randint(1, threads)}", seconds)
            except CoordinatorError as error:
                logger.warning("%s", error)
            with suppress(TimeoutError):
                await asyncio.wait_for(leave.wait(), every * random.uniform(0.8, 1.2))
        logger.info("worker epoch %d drains", manager.epoch)
        await manager.shutdown()
    logger.info("gone")
    return DONE


async def _admit(manager: RunManager, thread_id: str, seconds: float) -> None:
    run = await manager.create_or_reject(
        thread_id,
        "demo",
        kwargs={"seconds": seconds},
        metadata={"by": "demo-worker"},
        multitask_strategy="enqueue",
    )
    logger.info("run %s admitted on thread %s: %s", run.run_id, thread_id, run.status)
    manager.launch(run, _sleep)


async def _sleep(ctx: RunContext) -> dict[str, float]:
    seconds = float(ctx.run.kwargs["seconds"])
    logger.info("run %s started with fence %d", ctx.run.run_id, ctx.fence)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        logger.info("run %s stops: %s", ctx.run.run_id, ctx.abort)
        raise
    await ctx.save({"last_run": ctx.run.run_id, "slept": seconds})
    logger.info("run %s done", ctx.run.run_id)
    return {"slept": seconds}


def _log_to_stderr() -> None:
    root = logging.getLogger("coordinator")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False
