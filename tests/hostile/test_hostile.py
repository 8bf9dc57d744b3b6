"""A part of `make hostile` with a fixed seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.campaign import attack, flood, target
from tests.hostile.crowd import crowd


@pytest.mark.slow
@pytest.mark.multiprocess
async def test_hostile_requests_break_nothing(tmp_path: Path) -> None:
    async with target(tmp_path) as attacked:
        report = await attack(attacked, seed=1, count=600)
    assert not report.failures, "\n".join(report.failures[:10])
    assert {what.partition(":")[0] for what in report.statuses} >= {
        "raw body",
        "wild body",
        "bent body",
        "path",
    }


@pytest.mark.slow
@pytest.mark.multiprocess
async def test_hostile_bytes_break_nothing_and_leave_nothing_open(tmp_path: Path) -> None:
    async with target(tmp_path) as attacked:
        before = await attacked.without_connections()
        async with crowd(attacked.server.port, attacked.known.key, 200) as slow:
            report = await attack(attacked, seed=1, count=0, of_bytes=300)
        assert not report.failures + slow.failures, "\n".join((report.failures + slow.failures)[:10])
        sent, more = await flood(attacked, 60 << 20)
        assert sent < 8 << 20
        assert more < 30 << 20
        assert not (await attacked.without_connections() - before)["socket"]
    assert {what.partition(":")[0] for what in report.statuses} == {
        "pipelining",
        "trailers",
        "drops of a byte",
        "half-closed",
        "endless head",
        "early answer",
        "bent bytes",
    }
