"""Runs of the coordinator beside tasks of docket and dramatiq, 50 at once, on the same Redis server.

Each system does the same job: submit work that does nothing, execute it, and learn that it has ended. The
rounds take the systems in alternating order. Each has processes of its own per round, and an empty Redis.

* coordinator: create, launch and wait in one process, as in bench/throughput.py. Each run is committed to an
  SQLite file (FULL) at admission, start and end; one run at a time on a thread; any worker can cancel it.
* docket: `add` and `get_result` in one process, a worker in a second one, with free places and its default
  interval. State is in Redis only. A waiter subscribes on a connection of its own.
* dramatiq: `send` and `get_result` from 50 threads of one process, a worker with 16 threads in a second one.
  Messages and results are in Redis only. A waiter blocks on its result.

No peer commits to a durable store: what the server has not saved is lost with it. Peers use two processes,
therefore two cores, and beside other load a larger share of the machine than the one process of the
coordinator; CPU a run depends less on such load. They also use the C parser of redis-py (hiredis), which the
coordinator does without. CPU is that of the process that submits and its children, without the server's.
Commands are those of INFO commandstats; commands in scripts are included, INFO is not.

The peers are installed from requirements/peers.txt into build/peers on the first run; without a package index
only the coordinator is measured.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from bench.bare import connect
from bench.cpu import cpu_seconds, process_tree
from bench.databases import scaled
from bench.peer_program import REDIS_VARIABLE
from bench.processes import WorkerProcess
from bench.redis_commands import command_calls
from bench.report import Measure, at_least, median
from coordinator.servers.valkey import ValkeyServer

_BENCH = "peers"
AT_ONCE = 50
OVER_FASTEST = 2.2
ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "peers.txt"
FOLDER = ROOT / "build" / "peers"
OURS = "coordinator"
PEERS = ("docket", "dramatiq")
CONNECTIONS = 1_000
"""Of a pool of redis-py; its default (100) is less than a peer opens at times."""


class Cost(NamedTuple):
    rate: float
    """Runs per second."""
    cpu: float
    """us a run."""
    commands: float
    """Of Redis, a run."""


async def run(rounds: int) -> list[Measure]:
    python = await asyncio.to_thread(installed)
    systems = [OURS, *(PEERS if python else ())]
    costs: dict[str, list[Cost]] = {system: [] for system in systems}
    with ValkeyServer() as server:
        for number in range(rounds):
            for system in systems[:: -1 if number % 2 else 1]:
                executable = python if python and system in PEERS else Path(sys.executable)
                costs[system].append(await measured(server.url, executable, system, scaled(3_000, 100)))
    return judged(costs)


async def measured(redis: str, python: Path, system: str, runs: int) -> Cost:
    """Of `runs` runs, after a warm-up of a tenth."""
    async with connect(redis) as client, started(redis, python, system) as program:
        await client.flushall()
        await program.call("loads", runs=max(runs // 10, AT_ONCE), at_once=AT_ONCE)
        pids = process_tree(program.pid)
        commands, cpu = await command_calls(client), cpu_seconds(pids)
        began = time.perf_counter()
        await program.call("loads", runs=runs, at_once=AT_ONCE)
        took = time.perf_counter() - began
        used, calls = cpu_seconds(pids) - cpu, await command_calls(client)
    return Cost(runs / took, used / runs * 1e6, (sum(calls.values()) - sum(commands.values())) / runs)


@asynccontextmanager
async def started(redis: str, python: Path, system: str) -> AsyncGenerator[WorkerProcess]:
    """The program of the system, ready; killed with its children at the end."""
    url = redis if system == OURS else f"{redis}?max_connections={CONNECTIONS}"
    process = await asyncio.create_subprocess_exec(
        str(python),
        "-m",
        f"bench.peer_{system}",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), REDIS_VARIABLE: url},
    )
    program = WorkerProcess(process)
    try:
        await program.answer()
        yield program
    finally:
        for pid in reversed(process_tree(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await process.wait()


def judged(costs: Mapping[str, Sequence[Cost]]) -> list[Measure]:
    measures = [measure for system, each in costs.items() for measure in _figures(system, each)]
    peers = [system for system in PEERS if system in costs]
    if not peers:
        return [*measures, Measure(_BENCH, "docket, dramatiq", 0, "runs/s", note="NOT RUN: not installed")]
    fastest = max(peers, key=lambda peer: median([cost.rate for cost in costs[peer]]))
    pairs = list(zip(costs[OURS], costs[fastest], strict=True))
    times = median([ours.rate / theirs.rate for ours, theirs in pairs])
    cpu = median([theirs.cpu / ours.cpu for ours, theirs in pairs])
    return [
        *measures,
        at_least(Measure(_BENCH, f"times {fastest}, the fastest peer", times, "x"), OVER_FASTEST),
        Measure(_BENCH, f"CPU of {fastest} over that of the coordinator", cpu, "x"),
    ]


def _figures(system: str, costs: Sequence[Cost]) -> list[Measure]:
    rate, cpu, commands = (median([cost[column] for cost in costs]) for column in range(3))
    what = f"{system}, {AT_ONCE} at once"
    note = f"{min(cost.rate for cost in costs):,.0f} to {max(cost.rate for cost in costs):,.0f}"
    return [
        Measure(_BENCH, what, rate, "runs/s", note=note),
        Measure(_BENCH, what, cpu, "us CPU a run"),
        Measure(_BENCH, what, commands, "Redis commands a run"),
    ]


# ---- installation ------------------------------------------------------------------------------------------


def installed(folder: Path = FOLDER, lock: Path = LOCK) -> Path | None:
    """Returns the interpreter of an environment with the packages of the lock, which it makes if necessary.
    Returns None if the installation fails."""
    python, stamp = folder / "bin" / "python", folder / ".lock"
    if python.exists() and stamp.is_file() and stamp.read_bytes() == lock.read_bytes():
        return python
    print(f"installing {lock.name} into {folder} …", file=sys.stderr, flush=True)
    venv.create(folder, clear=True)
    options = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--requirement", str(lock))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr[-1000:], file=sys.stderr)
        return None
    stamp.write_bytes(lock.read_bytes())
    return python
