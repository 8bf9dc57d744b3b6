"""The eight claims, in the order of the demo: the last one kills a worker.

Each plays its scene and returns its measurements: a text, and numbers for --json (names of seconds end in
`_s`). Raises ClaimFailed if it does not hold. Times and durations are in seconds.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from coordinator.cli.demo.stage import Message, Refused, Stage, WorkerProcess, spawn
from coordinator.cli.failures import CommandFailed
from coordinator.cli.text import span

Figures = tuple[str, Message]


class ClaimFailed(Exception):
    """The claim does not hold."""


def must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ClaimFailed(otherwise)


def must_take(what: str, values: Sequence[float], limit: float, rank: str = "p95_s") -> None:
    must(spread(values)[rank] <= limit, f"{what} took more than {limit:g} s: {shown(values)}")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the number of the values, and those at the nearest ranks; NaN without values."""
    ordered, ranks = sorted(values) or [math.nan], {"p50_s": 0.5, "p95_s": 0.95, "max_s": 1.0}
    at = {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in ranks.items()}
    return {"count": len(values), **{name: round(value, 6) for name, value in at.items()}}


def shown(values: Sequence[float]) -> str:
    return f"p50 {span(spread(values)['p50_s'])}, p95 {span(spread(values)['p95_s'])}"


async def admit(worker: WorkerProcess, thread: str, strategy: str = "reject", **script: object) -> Message:
    return await worker.call("admit", thread=thread, strategy=strategy, script=script)


async def begin(stage: Stage, worker: WorkerProcess, thread: str | None = None, **script: object) -> str:
    """Starts a run, of 60 s by default; returns when it has started, or saved if the script saves."""
    played, thread = {"seconds": 60, **script}, thread or stage.new_thread()
    run_id: str = (await worker.call("admit", thread=thread, strategy="reject", script=played))["run_id"]
    await stage.moment(run_id, "saved" if "save" in script else "started")
    return run_id


async def status(stage: Stage, run_id: str) -> str:
    """Returns the status of the run once it has settled."""
    return (await stage.b.call("wait", run_id=run_id))["status"]


async def cancel(stage: Stage, count: int) -> tuple[list[float], list[float]]:
    """Cancels runs on A from B. Returns the times (s) from the call to the CancelledError in the task, and to
    the response that the thread is free."""
    delivered, freed = list[float](), list[float]()
    for _ in range(count):
        run_id = await begin(stage, stage.a)
        answer = await stage.b.call("cancel", run_id=run_id)
        cancelled = await stage.moment(run_id, "cancelled")
        delivered.append(cancelled["at"] - answer["called"])
        freed.append(answer["answered"] - answer["called"])
        must(delivered[-1] <= freed[-1], "a thread was reported free before its task was cancelled")
        must((end := await status(stage, run_id)) == "interrupted", f"a cancelled run ended as {end}")
    return delivered, freed


async def remote_cancel(stage: Stage) -> Figures:
    delivered, freed = await cancel(stage, 60)
    must_take("a cancel", delivered, 0.25)  # far below every tick: a signal delivered it
    text = f"{len(delivered)} cancels: {shown(delivered)}"
    return text, {"delivered": spread(delivered), "freed": spread(freed)}


async def reject(stage: Stage, rounds: int = 20, limit: float = 0.05) -> Figures:
    wins, apart = dict.fromkeys("ABC", 0), list[float]()
    for number in range(1, rounds + 1):
        thread, at = stage.new_thread(), time.monotonic() + 0.02  # the workers get the call before
        calls = await asyncio.gather(*(_try(worker, thread, at) for worker in stage.workers))
        moments = [answer["called"] for answer in calls]
        apart.append(max(moments) - min(moments))
        won = [answer["run_id"] for answer in calls if "refused" not in answer]
        must(len(won) == 1, f"round {number}: {len(won)} of 3 workers won")
        for worker, answer in zip(stage.workers, calls, strict=True):
            refusal = answer.get("refused"), answer.get("active_run_id")
            wins[worker.name] += refusal[0] is None
            correct = refusal in ((None, None), ("ConflictError", won[0]))
            must(correct, f"round {number}: worker {worker.name} was refused with {refusal}")
        await stage.a.call("cancel", run_id=won[0])
    must_take("the calls of a round", apart, limit, "p50_s")  # or nothing was contended
    text = f"{rounds} rounds, wins: {', '.join(f'{name} {count}' for name, count in wins.items())}"
    text += f"; calls within {shown(apart)}"
    return text, {"rounds": rounds, "wins": wins, "asked_apart": spread(apart)}


async def _try(worker: WorkerProcess, thread: str, at: float) -> Message:
    try:
        return await worker.call("admit", thread=thread, strategy="reject", script={"seconds": 60}, at=at)
    except Refused as error:
        return error.answer


async def _succeed(stage: Stage, old: str, new: str) -> tuple[Message, Message]:
    """Returns when the old run stopped on its worker, and when the new run started on another worker."""
    started, stopped = await stage.moment(new, "started"), await stage.moment(old, "stopped")
    must(stopped["at"] <= started["at"], "the new run started before the old task stopped")
    must(started["worker"] != stopped["worker"], f"both runs were on worker {started['worker']}")
    ends = [await status(stage, run_id) for run_id in (old, new)]
    must(ends == ["interrupted", "success"], f"the runs ended as {ends}")
    return stopped, started


async def interrupt(stage: Stage, rounds: int = 5, limit: float = 1.0) -> Figures:
    unwind, gaps = 0.3, list[float]()
    for _ in range(rounds):
        thread = stage.new_thread()
        old = await begin(stage, stage.a, thread, unwind=unwind)
        new = (await admit(stage.b, thread, "interrupt"))["run_id"]
        stopped, started = await _succeed(stage, old, new)
        took = stopped["at"] - (await stage.moment(old, "cancelled"))["at"]
        must(took >= unwind, "the old task did not take its time to stop")
        gaps.append(started["at"] - stopped["at"])
    must_take("the start after the old task", gaps, limit)
    return f"starts after the old task stopped by {shown(gaps)}", {"unwind_s": unwind, "gap": spread(gaps)}


async def rollback(stage: Stage, rounds: int = 5, limit: float = 1.0) -> Figures:
    took = list[float]()
    for number in range(rounds):
        thread = stage.new_thread()
        first, spoilt = {"messages": ["hello"], "n": number}, {"messages": ["hello", "half"], "n": -1}
        await status(stage, await begin(stage, stage.a, thread, save=first, seconds=0))
        held = [(await stage.c.call("thread", thread=thread))["values"]]
        old = await begin(stage, stage.a, thread, save=spoilt)
        held.append((await stage.c.call("thread", thread=thread))["values"])
        new = await admit(stage.b, thread, "rollback")
        _, started = await _succeed(stage, old, new["run_id"])
        took.append(started["at"] - new["called"])
        held += [started["values"], (await stage.c.call("thread", thread=thread))["values"]]
        wanted = [first, spoilt, first, first]
        must(held == wanted, f"before, during, at the start of the new run, after: {held}")
    must_take("a rollback", took, limit)
    text = f"values restored {rounds} times; from call to start {shown(took)}"
    return text, {"rounds": rounds, "asked_to_started": spread(took)}


async def enqueue(stage: Stage, rounds: int = 4, limit: float = 0.5) -> Figures:
    thread = stage.new_thread()
    admitted = [await begin(stage, stage.a, thread, seconds=0.3)]
    queue = [await admit(worker, thread, "enqueue", seconds=0.02) for worker in stage.workers * rounds]
    admitted += [answer["run_id"] for answer in queue]
    started = [await stage.moment(run_id, "started") for run_id in admitted]
    stopped = [await stage.moment(run_id, "stopped") for run_id in admitted]
    gaps = [other["at"] - one["at"] for one, other in zip(stopped, started[1:], strict=False)]
    ordered = [moment["at"] for moment in started] == sorted(moment["at"] for moment in started)
    must(ordered, "they did not run in the order in which they were admitted")
    must(min(gaps) >= 0, "two of them ran at the same time")
    must(len({moment["worker"] for moment in started}) == 3, "they were not on three workers")
    must_take("the next run", gaps, limit, "p50_s")  # far below every tick; one may wait for a busy machine
    text = f"{len(started)} runs in order; from one to the next {shown(gaps)}"
    return text, {"runs": len(started), "handover": spread(gaps)}


async def redis_away(stage: Stage) -> Figures:
    if (server := stage.server) is None:
        raise CommandFailed("NotOurs", "this Redis is not the demo's to kill")
    killed = time.monotonic()
    server.kill()
    await stage.await_connectivity(within=5.0, connected=False)
    noticed = time.monotonic() - killed
    without, _ = await cancel(stage, 10)
    must_take("a cancel without Redis", without, 2.0, "max_s")  # the short tick, on a busy machine
    strategies = {"reject": reject, "interrupt": interrupt, "rollback": rollback, "enqueue": enqueue}
    for name, play in strategies.items():
        try:
            await play(stage, 1, 2.0)
        except ClaimFailed as error:
            raise ClaimFailed(f"{name} without Redis: {error}") from error
    server.start()  # in the same thread as before: the server ends with its parent thread
    back = time.monotonic()
    async with asyncio.timeout(10.0):
        after, healed = [math.inf], math.inf
        while max(after) > 0.25:
            await stage.await_connectivity(within=10.0)
            healed = time.monotonic() - back
            after, _ = await cancel(stage, 5)
    must_take("the way back", [healed], 2.0)
    text = f"without: cancels {shown(without)}; fast again {span(healed)} after it is back ({shown(after)})"
    came_to = {"noticed_s": noticed, "strategies": dict.fromkeys(strategies, "ok"), "healed_s": healed}
    return text, {**came_to, "cancel_without_redis": spread(without), "cancel_after": spread(after)}


async def dead_worker(stage: Stage) -> Figures:
    threads = [stage.new_thread() for _ in range(3)]
    dying = [await begin(stage, stage.c, thread) for thread in threads]
    others = [await begin(stage, worker) for worker in (stage.a, stage.b) for _ in range(3)]
    before = [await stage.a.call("run", run_id=run_id) for run_id in others]
    killed = time.monotonic()
    await stage.c.kill()
    rows = [await stage.a.call("wait", run_id=run_id) for run_id in dying]
    took = time.monotonic() - killed
    must_take("the end of its runs", [took], 8.0)  # one sweep (5 s and its jitter), on a busy machine
    ends = {(row["status"], row["cause"]) for row in rows}
    must(ends == {("error", "orphaned")}, f"the runs of the dead worker ended as {ends}")
    for thread in threads:
        end = await status(stage, (await admit(stage.b, thread))["run_id"])
        must(end == "success", f"a new run on a thread of the dead worker ended as {end}")
    after = [await stage.a.call("run", run_id=run_id) for run_id in others]
    rows = [[(row["status"], row["owner"]) for row in moment] for moment in (before, after)]
    must(rows[0] == rows[1], "runs of other workers were touched")
    must({row["status"] for row in after} == {"running"}, "runs of other workers stopped")
    for run_id in others:
        await stage.a.call("cancel", run_id=run_id)
    text = f"{len(dying)} runs ended, threads free {span(took)} after the kill; {len(others)} others run on"
    return text, {"ended": len(dying), "ended_within_s": took, "untouched": len(others)}


async def gateway(stage: Stage) -> Figures:
    """An unmodified client of the Runs API drives a `coordinator serve`, which SIGTERM ends."""
    from langgraph_sdk import get_client

    log = stage.folder / "gateway.log"
    with log.open("wb") as file:
        options = "--port", "0", "--workers", "3", "--grace", "0", "--log-format", "json"
        settings = stage.settings("gateway")
        process = await spawn("coordinator", "serve", *options, settings=settings, stdout=file, stderr=file)
    try:
        while (address := re.search(r'"url": "([^"]+)"', log.read_text())) is None:
            must(process.returncode is None, f"the gateway has ended: {log.read_text()[-200:].strip()}")
            await asyncio.sleep(0.02)
        one, other = (get_client(url=address[1], api_key=None) for _ in range(2))
        async with one, other:
            took = await drive(one, other)
        began = time.monotonic()
        process.terminate()
        must((code := await process.wait()) == 0, f"the gateway ended with {code}")
        left = time.monotonic() - began
    finally:
        with suppress(ProcessLookupError):
            process.kill()  # its workers notice
        await process.wait()
    must_take("a cancel over HTTP", took, 0.5)  # far below every tick of the worker that runs the run
    must_take("the end of the gateway", [left], 5.0)
    return f"{len(took)} cancels over HTTP: {shown(took)}", {"cancel": spread(took), "left_s": left}


async def drive(one: Any, other: Any) -> list[float]:  # Any: clients of an optional package
    """Cancels runs that were created on other connections. Returns the times (s) until they stopped."""
    thread, run, steps = (await one.threads.create())["thread_id"], "", list[int]()
    async for part in one.runs.stream(thread, "agent", input={"steps": 5, "sleep": 0.01}):
        run = part.data["run_id"] if part.event == "metadata" else run
        steps += [part.data["done"]] if part.event == "values" else []
    joined = (await other.runs.join(thread, run))["log"]
    must(steps == [1, 2, 3, 4, 5], f"the stream has the steps {steps}")
    must(len(joined) == 5, f"a client that joined the run got {len(joined)} of 5 steps")

    async def begin_run() -> tuple[str, str]:
        thread = (await one.threads.create())["thread_id"]
        return thread, (await one.runs.create(thread, "agent", input={"steps": 1, "sleep": 60}))["run_id"]

    took, epochs = list[float](), set[int]()
    # Concurrently: each on a connection of its own, which any worker may accept.
    for thread, run in await asyncio.gather(*(begin_run() for _ in range(20))):
        began = time.monotonic()
        await other.runs.cancel(thread, run, wait=True)
        took.append(time.monotonic() - began)
        end = (await other.runs.get(thread, run))["status"]
        must(end == "interrupted", f"a cancelled run ended as {end}")
        timeline = (await other.http.get(f"/coordinator/runs/{run}/explain"))["timeline"]
        epochs.update(step["epoch"] for step in timeline if step["what"] == "started")
    must((count := len(await other.http.get("/coordinator/workers"))) == 3, f"{count} workers instead of 3")
    must(len(epochs) >= 2, "one worker ran all runs")
    return took


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim of the demo. `needs`: modules without which it is skipped."""

    name: str
    statement: str
    show: Callable[[Stage], Awaitable[Figures]]
    kills_redis: bool = False
    needs: tuple[str, ...] = ()


CLAIMS = (
    Claim("cancel", "a run on worker A is cancelled from worker B", remote_cancel),
    Claim("reject", "three workers admit at the same moment, exactly one wins", reject),
    Claim("interrupt", "the new run starts only after the old task has stopped", interrupt),
    Claim("rollback", "the new run gets the thread as it was before", rollback),
    Claim("enqueue", "first in, first out over three workers", enqueue),
    Claim("redis", "Redis is killed: everything continues, slower, and recovers", redis_away, True),
    Claim(
        "gateway",
        "an unmodified client creates, streams, joins and cancels over three workers",
        gateway,
        needs=("fastapi", "langgraph_sdk", "uvicorn"),
    ),
    Claim("crash", "a killed worker's runs are ended, the others untouched", dead_worker),
)
