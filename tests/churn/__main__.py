"""The long form: `make churn`. Fills memory with finished runs, then churns; writes a report.

MINUTES (10), RUNNING (1000), FINISHED (10000), RATE (runs ended a second, 60), OUT (build/churn).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from coordinator.servers.valkey import ValkeyServer
from tests.churn.workload import Churn, Held, churning

MINUTES = float(os.environ.get("MINUTES", "10"))
RUNNING = int(os.environ.get("RUNNING", "1000"))
FINISHED = int(os.environ.get("FINISHED", "10000"))
RATE = float(os.environ.get("RATE", "60"))
OUT = Path(os.environ.get("OUT", "build/churn"))
ALLOWED = 0.05


async def _churn(churn: Churn, minutes: float) -> list[Held]:
    """One sample at the start and one for each minute."""
    samples = [await churn.held()]
    began = time.monotonic()
    steps = 0
    while (passed := time.monotonic() - began) < minutes * 60:
        if steps >= passed * RATE:
            await asyncio.sleep(0.01)
            continue
        await churn.step()
        steps += 1
        if passed >= len(samples) * 60:
            samples.append(await churn.held())
            print_last(samples)
    samples.append(await churn.held())
    print_last(samples)
    return samples


def print_last(samples: list[Held]) -> None:
    now = samples[-1]
    sys.stderr.write(
        f"{now.at:7.1f} s  {now.rss / 2**20:7.1f} MiB  {now.ended} ended  {now.runs_in_memory} in memory"
        f"  {now.tasks} tasks  {now.files} files\n"
    )


async def _measure() -> dict[str, Any]:
    tasks_before = len(asyncio.all_tasks())
    with ValkeyServer() as server, tempfile.TemporaryDirectory() as folder:
        open_before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only counted
        async with churning(Path(folder), server, namespace="churn", running=RUNNING, **KEPT) as churn:
            await churn.fill()
            # Twice the size: the heap reaches its final fragmentation (about 12 % more than right after the
            # first filling) only when each run of that filling has been replaced by another.
            while churn.ended < 2 * FINISHED:
                await churn.step()
            print_last([await churn.held()])
            samples = await _churn(churn, MINUTES)
            await churn.finish()
            at_rest = await churn.held()
        keys = server.command("EVAL", _IMMORTAL, "0")
        after = (len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")))  # noqa: PTH208 - the same
    base = samples[0].rss
    drift = max(abs(sample.rss / base - 1) for sample in samples)
    return {
        "minutes": MINUTES,
        "running": RUNNING,
        "finished_in_memory": FINISHED,
        "ended": samples[-1].ended,
        "drift": drift,
        "ok": drift <= ALLOWED and after == (tasks_before, open_before) and keys == b":0\r\n",
        "tasks_left": after[0] - tasks_before,
        "files_left": after[1] - open_before,
        "keys_without_ttl": int(keys.strip(b":\r\n")),
        "samples": [sample.document() for sample in samples],
        "at_rest": at_rest.document(),
    }


KEPT = {"keep_finished": 3600.0, "keep_finished_max": FINISHED}
_IMMORTAL = (
    "local n = 0 for _, key in ipairs(redis.call('KEYS', '*')) do"
    " if redis.call('PTTL', key) < 0 then n = n + 1 end end return n"
)


def _markdown(result: dict[str, Any]) -> str:
    verdict = "holds" if result["ok"] else "DOES NOT HOLD"
    samples: list[dict[str, Any]] = result["samples"]
    rows = [
        f"| {sample['at']:.0f} | {sample['rss'] / 2**20:.1f} | {sample['runs_in_memory']} | {sample['ended']}"
        f" | {sample['tasks']} | {sample['files']} | {sample['redis_keys']} | {sample['redis_connections']} |"
        for sample in samples
    ]
    return f"""# Churn

{result["running"]} running, {result["finished_in_memory"]} finished in memory, {result["minutes"]:g} minutes:
{result["ended"]} runs ended; memory within {result["drift"]:.1%} of the start; {verdict}.
Left behind: {result["tasks_left"]} tasks, {result["files_left"]} files, {result["keys_without_ttl"]} keys
without a TTL.

| s | RSS MiB | in memory | ended | tasks | files | Redis keys | connections |
|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}
"""


def main() -> int:
    logging.disable(logging.WARNING)  # runs fail on purpose
    result = asyncio.run(_measure())
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "churn.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (OUT / "churn.md").write_text(_markdown(result), encoding="utf-8")
    sys.stdout.write(_markdown(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
