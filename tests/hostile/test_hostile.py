"""A share of `make hostile`, the same in every run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.campaign import attack, target


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
