"""What a worker costs while its runs only run: the same with ten as with a thousand."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.servers.valkey import ValkeyServer
from tests.support.processes import fleet_on
from tests.support.waiting import wait_until

pytestmark = pytest.mark.multiprocess

CALLS = re.compile(rb"cmdstat_([a-z|]+):calls=(\d+)")
OWN = {b"info", b"config|resetstat", b"eval"}


def commands(server: ValkeyServer) -> int:
    """Returns the number of commands that the workers have sent, including those that scripts call."""
    stats = server.command("INFO", "commandstats")
    return sum(int(calls) for name, calls in CALLS.findall(stats) if name not in OWN)


def renewals(database: Path) -> int:
    """Renewals of leases so far."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as cx:
        return int(cx.execute("SELECT sum(hb_seq) FROM workers").fetchone()[0])


async def cost(folder: Path, server: ValkeyServer, runs: int) -> dict[str, float]:
    """Between two renewals of the lease: about ten ticks."""
    fast = {"tick": 0.05, "short_tick": 0.05, "jitter": 0, "canary": 0.1, "renew": 0.5}
    fast |= {"lease_ttl": 10, "sweep": 60}
    async with fleet_on(folder, server.url, namespace=f"idle{runs}", **fast) as fleet:
        worker = await fleet.start()
        await worker.do("many", count=runs, prefix="t")
        before = await worker.do("counts") | {"commands": commands(server)}
        beats = renewals(folder / "runs.db")

        async def enough() -> bool:
            return bool(renewals(folder / "runs.db") >= beats + 2)

        await wait_until(enough, description="two renewals")
        after = await worker.do("counts") | {"commands": commands(server)}
        return {name: after[name] - before[name] for name in after}


async def test_ticks_do_not_grow_with_runs(
    tmp_path_factory: pytest.TempPathFactory, own_valkey: ValkeyServer
) -> None:
    few_folder, many_folder = (tmp_path_factory.mktemp(name) for name in ("few", "many"))
    few = await cost(few_folder, own_valkey, 10)
    many = await cost(many_folder, own_valkey, 1000)
    assert few["commits"] <= 4, "a renewal of the lease is the only write"
    assert many["commits"] <= 4
    assert many["reads"] <= few["reads"] * 1.5 + 5, (few, many)
    assert many["commands"] <= few["commands"] * 1.5 + 5, (few, many)
