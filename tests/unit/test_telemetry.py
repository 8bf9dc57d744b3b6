"""Hooks observe: they see every event, they break nothing, and what they log cannot be forged."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import structlog

from coordinator import RunContext, RunManager
from coordinator.telemetry import Event, Telemetry
from coordinator.telemetry.events import (
    RunAdmitted,
    RunEmitted,
    RunForced,
    RunSettled,
    RunStarted,
    WorkerFenced,
    WorkerRegistered,
)
from coordinator.telemetry.log import LoggingHook, StructlogHook


async def test_a_run_tells_its_life() -> None:
    seen: list[Event] = []
    manager = RunManager(hooks=[seen.append])

    async def agent(ctx: RunContext) -> None:
        await ctx.emit("custom", {"step": 1})

    run = await manager.create_or_reject("t")
    manager.launch(run, agent)
    await manager.wait(run.run_id)
    await manager.aclose()
    kinds = [type(event) for event in seen]
    assert kinds == [WorkerRegistered, RunAdmitted, RunStarted, RunEmitted, RunSettled]
    assert seen[3] == RunEmitted(run.run_id, "t", "custom", {"step": 1})


async def test_a_hook_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Event] = []

    def broken(event: Event) -> None:
        raise RuntimeError("hook")

    manager = RunManager(hooks=[broken, seen.append])
    run = await manager.create_or_reject("t")
    assert await manager.cancel(run.run_id)
    await manager.aclose()
    assert seen
    assert "failed on RunAdmitted" in caplog.text


def test_an_id_cannot_forge_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    hook = LoggingHook(logging.getLogger("forged"))
    with caplog.at_level(logging.DEBUG, logger="forged"):
        hook(RunSettled("run\nERROR: all is lost", "t\x1b[31m", "success", None))
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()
    assert "\x1b" not in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (WorkerFenced(1, "late"), logging.ERROR),
        (RunForced("r", "t", 10.0, "stack"), logging.ERROR),
        (RunSettled("r", "t", "success", None), logging.DEBUG),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_needs_a_person_is_louder(event: Event, level: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="coordinator"):
        Telemetry([LoggingHook()]).emit(event)
    assert [record.levelno for record in caplog.records] == [level]


def test_a_stream_stays_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="coordinator"), structlog.testing.capture_logs() as logged:
        for hook in (LoggingHook(), StructlogHook()):
            hook(RunEmitted("r", "t", "messages", {"token": "secret"}))
    assert caplog.records == []
    assert logged == []


def test_structlog_gets_the_fields_as_keys() -> None:
    with structlog.testing.capture_logs() as logged:
        StructlogHook()(RunSettled("r", "t", "error", "boom"))
    expected: dict[str, Any] = {"run_id": "r", "thread_id": "t", "status": "error", "error": "boom"}
    assert logged == [{"event": "RunSettled", "log_level": "debug", **expected}]
