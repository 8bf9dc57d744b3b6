"""How often a worker of `serve` collects garbage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.served import served

pytestmark = [pytest.mark.multiprocess]

SET_BY_USER = (5_000, 7, 3)
AGENT = """
import gc

async def thresholds(ctx):
    return {"thresholds": gc.get_threshold(), "frozen": gc.get_freeze_count()}

assistants = {"thresholds": thresholds}
"""


@pytest.mark.parametrize(
    ("first_line", "first_threshold"),
    [
        pytest.param("", 10_000, id="by default"),
        pytest.param(
            f"import gc; gc.set_threshold(*{SET_BY_USER})", SET_BY_USER[0], id="threshold of the user"
        ),
    ],
)
async def test_worker_collects_garbage_less_often_than_python(
    tmp_path: Path, first_line: str, first_threshold: int
) -> None:
    (tmp_path / "mine.py").write_text(first_line + AGENT)
    options = ("--store", "memory://", "--assistants", "mine:assistants")
    async with (
        served("serve", *options, folder=tmp_path) as server,
        httpx.AsyncClient(base_url=await server.up(), timeout=60) as client,
    ):
        run: dict[str, Any] = {"assistant_id": "thresholds", "input": {}}
        answer = (await client.post("/runs/wait", json=run)).json()
    assert answer["thresholds"][0] == first_threshold
    assert answer["frozen"] > 10_000, "the objects of imports are collected with those of runs"
