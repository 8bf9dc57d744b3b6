"""A value that JSON cannot hold fails its run, and the log names the place."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

import pytest

from coordinator import Outcome, RunContext, RunFailed, RunManager
from stores.json_faults import json_fault


@dataclass
class Message:
    text: str


WRONG: dict[str, Any] = {"messages": [{"role": "user"}, Message("hi")]}
WHERE = r"messages\[1\] is of type tests\.fundamentals\.test_unstorable_values\.Message"


async def returns(_: RunContext) -> Any:
    return WRONG


async def saves(ctx: RunContext) -> Any:
    await ctx.save(WRONG)


async def emits(ctx: RunContext) -> Any:
    await ctx.emit("custom", WRONG)


async def reports(_: RunContext) -> Outcome:
    return Outcome(values={"fine": 1}, result=WRONG)


@pytest.mark.parametrize("modes", [(), ("values",)], ids=["unwatched", "watched"])
@pytest.mark.parametrize("agent", [returns, saves, emits, reports], ids=lambda agent: agent.__name__)
async def test_log_names_the_unstorable_part_and_its_type(
    agent: Any, modes: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    async with RunManager(assistants={"agent": agent}) as manager:
        run = await manager.create_or_reject("t", "agent", kwargs={"input": 1, "stream_mode": list(modes)})
        manager.launch(run)
        with pytest.raises(RunFailed, match=WHERE):
            await manager.wait(run.run_id, timeout=10)
    logged = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert any(run.run_id in record.getMessage() for record in logged)

    assert re.search(WHERE, caplog.text)


def test_unstorable_part_is_located() -> None:
    itself: list[Any] = []
    itself.append(itself)
    deep: Any = 1
    for _ in range(2000):
        deep = [deep]

    class Odd(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError("no")

    assert json_fault("v", {"a": [1, "x", None, True, 1.5, (2,)], 3: {}}) is None
    for value, expected in (
        ({"a": {"b c": {1, 2}}}, "v.a['b c'] is of type set, which JSON cannot hold"),
        ([float("nan")], "v[0] is nan, which JSON cannot hold"),
        ({(1, 2): 3}, "a key of v is of type tuple, which JSON cannot hold"),
        (itself, "v[0] holds itself"),
        (deep, f"v{'[0]' * 66}[... is nested too deep for JSON"),
        (Odd(), "v cannot be read (RuntimeError)"),
    ):
        assert json_fault("v", value) == expected
