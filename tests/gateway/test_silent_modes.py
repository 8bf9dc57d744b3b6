"""A requested stream mode without events is reported at the end of the stream and in the log."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from coordinator.gateway import silent_modes
from tests.support.gateways import one_gateway


@pytest.fixture(autouse=True)
def no_mode_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silent_modes, "_logged", set[tuple[str, str]]())


async def streamed(raw: httpx.AsyncClient, assistant: str, modes: list[str], **run_input: Any) -> str:
    body = {"assistant_id": assistant, "input": run_input, "stream_mode": modes}
    answer = await raw.post("/runs/stream", json=body)
    assert answer.status_code == 200
    return answer.text


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "stream_mode" in record.getMessage()]


async def test_mode_without_events_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with one_gateway() as served:
        text = await streamed(served.raw, "echo", ["values", "tasks", "debug"], a=1)
        assert text.endswith(": no event of stream_mode tasks, debug: assistant echo emits none\r\n\r\n")
        assert "event: values" in text
        await streamed(served.raw, "echo", ["tasks"], a=1)
    (line,) = [
        line for line in warnings_of(caplog) if "'tasks'" in line
    ]  # one line for each assistant and mode
    assert line.startswith(
        "a client requested stream_mode 'tasks' of assistant 'echo', and the run emitted no"
    )
    assert line.endswith(
        "has the modes values, updates and custom, and those that its code passes to ctx.emit"
    )


async def test_mode_with_events_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with one_gateway() as served:
        for modes in (["updates"], ["values", "custom"]):
            assert "no event" not in await streamed(served.raw, "agent", modes, steps=1)
        async for part in served.sdk.runs.stream(None, "agent", input={"steps": 1}, stream_mode=["events"]):
            assert part.event == "metadata", "clients skip the comment"
    assert len(warnings_of(caplog)) == 1
