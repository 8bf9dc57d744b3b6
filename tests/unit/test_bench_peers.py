"""The benchmark of peers: how it judges, what it installs, and one small load of the coordinator."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from bench import peers
from bench.peers import OURS, Cost, judged
from coordinator.servers.valkey import ValkeyServer

LOCKS = Path(__file__).resolve().parents[2] / "requirements"


def pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (LOCKS / name).read_text(), re.MULTILINE))


def test_ratio_is_the_median_over_the_fastest_peer_of_the_same_round() -> None:
    costs = {
        OURS: [Cost(300, 10, 6), Cost(200, 20, 6), Cost(900, 30, 6)],
        "docket": [Cost(10, 50, 20)] * 3,
        "dramatiq": [Cost(100, 20, 9), Cost(100, 20, 9), Cost(300, 30, 9)],
    }
    *figures, times, cpu = judged(costs)
    assert times.what == "times dramatiq, the fastest peer"
    assert (times.value, times.holds) == (3, True)
    assert cpu.value == 1
    assert [(each.value, each.unit) for each in figures[:3]] == [
        (300, "runs/s"),
        (20, "us CPU a run"),
        (6, "Redis commands a run"),
    ]
    assert len(figures) == 9


def test_peers_that_cannot_be_installed_are_not_run() -> None:
    *_, last = judged({OURS: [Cost(300, 10, 6)]})
    assert (last.note, last.holds) == ("NOT RUN: not installed", None)


def test_failed_installation_is_reported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("no-such-package-of-the-coordinator==1 --hash=sha256:" + "0" * 64 + "\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert peers.installed(tmp_path / "environment", lock) is None
    assert "no-such-package-of-the-coordinator" in capfd.readouterr().err
    assert not (tmp_path / "environment" / ".lock").exists(), "the next call must try again"


def test_packages_of_peers_are_in_no_other_lock() -> None:
    theirs = {"pydocket", "dramatiq", "hiredis"}
    assert theirs <= pins("peers.txt").keys()
    for lock in LOCKS.glob("*.txt"):
        assert lock.name == "peers.txt" or not theirs & pins(lock.name).keys(), lock


def test_peers_use_the_tested_version_of_the_redis_client() -> None:
    assert pins("peers.txt")["redis"] == pins("dev.txt")["redis"]


async def test_load_of_the_coordinator_is_measured_in_its_process() -> None:
    with ValkeyServer() as server:
        cost = await peers.measured(server.url, Path(sys.executable), OURS, runs=50)
    assert cost.rate > 0
    assert cost.cpu > 50
    assert 5 < cost.commands < 20
