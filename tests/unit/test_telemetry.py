"""Hooks observe: they see every event, they break nothing, and what they log cannot be forged."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest
import structlog

from coordinator import RunContext, RunManager
from coordinator.telemetry import Event, Telemetry, events
from coordinator.telemetry.events import (
    ConnectivityChanged,
    PeerBuried,
    RunAdmitted,
    RunEmitted,
    RunForced,
    RunSettled,
    RunStarted,
    WorkerFenced,
    WorkerRegistered,
)
from coordinator.telemetry.log import LoggingHook, OfRun, StructlogHook
from coordinator.telemetry.sentences import sentence_of


async def test_run_emits_an_event_for_each_step() -> None:
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
    assert seen[3] == RunEmitted(run.run_id, "t", "custom", '{"step":1}')


async def test_failing_hook_does_not_affect_the_run(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Event] = []

    def broken(event: Event) -> None:
        raise RuntimeError("hook")

    manager = RunManager(hooks=[broken, seen.append])
    run = await manager.create_or_reject("t")
    assert await manager.cancel(run.run_id)
    await manager.aclose()
    assert seen
    assert "failed for event RunAdmitted" in caplog.text


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
        (ConnectivityChanged("down"), logging.WARNING),
        (ConnectivityChanged("connected"), logging.INFO),
    ],
    ids=repr,
)
def test_level_shows_whether_an_operator_must_act(
    event: Event, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="coordinator"):
        Telemetry([LoggingHook()]).emit(event)
    assert [record.levelno for record in caplog.records] == [level]


def test_emitted_events_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="coordinator"), structlog.testing.capture_logs() as logged:
        for hook in (LoggingHook(), StructlogHook()):
            hook(RunEmitted("r", "t", "messages", '{"token":"secret"}'))
    assert caplog.records == []
    assert logged == []


def test_structlog_gets_the_fields_as_keys() -> None:
    with structlog.testing.capture_logs() as logged:
        StructlogHook()(RunSettled("r", "t", "error", "boom"))
    expected: dict[str, Any] = {"run_id": "r", "thread_id": "t", "status": "error", "error": "boom"}
    assert logged == [{"event": "RunSettled", "log_level": "debug", **expected}]


KINDS = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]
LOGGED = [kind for kind in KINDS if kind not in (Event, events.RunEvent, RunEmitted)]


def any_of(kind: type[Event]) -> Event:
    return kind(
        **{field.name: 7 if "str" not in str(field.type) else "x" for field in dataclasses.fields(kind)}
    )


@pytest.mark.parametrize("kind", LOGGED)
def test_every_event_is_a_sentence_and_no_class_name(kind: type[Event]) -> None:
    sentence = sentence_of(any_of(kind))
    assert kind.__name__ not in sentence
    assert " " in sentence


def test_sentence_of_dead_worker_has_its_name_and_number_of_runs() -> None:
    sentence = sentence_of(PeerBuried(1, 2, "worker 2 of vm (epoch 1, pid 16144)", 1))
    assert sentence == "worker 2 of vm (epoch 1, pid 16144) is dead and fenced: 1 of its runs was ended"


def test_log_record_of_an_event_has_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="coordinator"):
        LoggingHook()(RunSettled("r", "t", "error", "boom"))
    [record] = caplog.records
    assert (
        vars(record).items()
        >= {"event": "RunSettled", "run_id": "r", "thread_id": "t", "error": "boom"}.items()
    )


async def test_runs_are_logged_on_request_with_how_long_they_took(caplog: pytest.LogCaptureFixture) -> None:
    manager = RunManager(hooks=[LoggingHook(runs=True)])

    async def agent(ctx: RunContext) -> None:
        logging.getLogger("mine").warning("at work")

    caplog.handler.addFilter(of_run := OfRun())
    with caplog.at_level(logging.INFO, logger="coordinator"):
        run = await manager.create_or_reject("t", "agent")
        manager.launch(run, agent)
        await manager.wait(run.run_id)
    await manager.aclose()
    caplog.handler.removeFilter(of_run)
    start, mine, end = caplog.records
    assert start.getMessage() == f"run {run.run_id!r} on thread 't' of assistant 'agent' started"
    assert vars(mine)["run_id"] == run.run_id
    assert end.getMessage().startswith(f"run {run.run_id!r} on thread 't' ended: success, after ")
    assert vars(end)["seconds"] >= 0
