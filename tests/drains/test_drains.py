"""The short form of `make drains`."""

from __future__ import annotations

from tests.drains.__main__ import drains


async def test_no_finished_run_is_decided_otherwise() -> None:
    ends, wrong = await drains(10)
    assert ends["success"] > 100
    assert not wrong
