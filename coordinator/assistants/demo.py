"""The demo assistant `agent`: sleeps, logs its steps in the thread's values, and fails on request."""

from __future__ import annotations

import asyncio
from typing import Annotated, cast

from pydantic import BaseModel, ConfigDict, Field

from coordinator.assistants.decorator import assistant
from coordinator.context import RunContext
from stores.json_values import Json, JsonObject


class DemoInput(BaseModel):
    """`sleep`: seconds per step. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [{"steps": 3}]})

    sleep: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 0
    steps: Annotated[int, Field(ge=0, le=100_000)] = 1
    fail: bool = False
    tag: Annotated[str, Field(max_length=1_000)] = "run"


@assistant(
    name="agent",
    input=DemoInput,
    description="Executes its steps, each after a sleep, and appends them to the thread's log.",
)
async def agent(ctx: RunContext) -> JsonObject:
    """Saves the values after every step: an interrupted run keeps its completed steps, a rolled back run
    keeps none."""
    options: DemoInput = ctx.input if isinstance(ctx.input, DemoInput) else DemoInput()
    stored: Json = ctx.values
    previous = cast("JsonObject", stored) if isinstance(stored, dict) else {}
    stored_log: Json = previous.get("log")
    log = list(cast("list[Json]", stored_log)) if isinstance(stored_log, list) else []
    values: JsonObject = {**previous, "done": 0, "steps": options.steps, "log": log}
    for step in range(1, options.steps + 1):
        await asyncio.sleep(options.sleep)
        if options.fail and step == options.steps:
            raise ValueError("demo failure requested")
        log.append(f"{options.tag}:{step}")
        values["done"] = step
        await ctx.save(values)
        if "updates" in ctx.request.stream_mode:
            await ctx.emit("updates", {"agent": {"done": step, "log": log[-1:]}})
    return values
