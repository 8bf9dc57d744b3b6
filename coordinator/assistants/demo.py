"""`agent`, to try things out with: it sleeps, notes its steps, and fails when asked to."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field

from coordinator.assistants.decorator import assistant
from coordinator.context import RunContext


class DemoInput(BaseModel):
    """`sleep` is seconds for each step; what else is sent is of no account."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [{"steps": 3}]})

    sleep: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 0
    steps: Annotated[int, Field(ge=0, le=100_000)] = 1
    fail: bool = False
    tag: Annotated[str, Field(max_length=1_000)] = "run"


@assistant(
    name="agent",
    input=DemoInput,
    description="Takes its steps, each after a sleep, and notes them in the thread's log.",
)
async def agent(ctx: RunContext) -> dict[str, Any]:
    """The values are saved after every step: a run that is interrupted keeps what it has done, and one
    that is rolled back leaves nothing."""
    asked: DemoInput = ctx.input if isinstance(ctx.input, DemoInput) else DemoInput()
    known: Any = ctx.values
    held = cast("dict[str, Any]", known) if isinstance(known, dict) else {}
    noted: Any = held.get("log")
    log = list(cast("list[Any]", noted)) if isinstance(noted, list) else []
    values: dict[str, Any] = {**held, "done": 0, "steps": asked.steps, "log": log}
    for step in range(1, asked.steps + 1):
        await asyncio.sleep(asked.sleep)
        if asked.fail and step == asked.steps:
            raise ValueError("demo failure requested")
        log.append(f"{asked.tag}:{step}")
        values["done"] = step
        await ctx.save(values)
        if "updates" in ctx.request.stream_mode:
            await ctx.emit("updates", {"agent": {"done": step, "log": log[-1:]}})
    return values
