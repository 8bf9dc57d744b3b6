"""However the code of a run ends, and whatever the store refuses of that end: the run ends, and its thread is
free."""

from __future__ import annotations

import asyncio
import contextvars
import json
import signal
import sqlite3
import sys
from collections.abc import Callable, Generator
from typing import Any, cast

import asyncpg
import pytest

from coordinator import RunFailed, RunManager, RunStatus
from coordinator.context import current_run
from coordinator.errors import StoreRefused
from coordinator.runs.exits import contain_tasks
from tests.support.agents import Agent, running
from tests.support.inside import assembly_of
from tests.support.odd import ODD_AGENTS, OddAgent, ReturnsDict, UnreadableError
from tests.support.runs import row
from tests.support.waiting import wait_until


async def ended(manager: RunManager, run_id: str) -> str:
    """Waits until the thread is free, and returns the error of the run."""
    with pytest.raises(RunFailed) as failed:
        await manager.wait(run_id, timeout=20)
    assert (await row(manager, run_id))["status"] == "error"
    assert failed.value.error is not None
    json.dumps(failed.value.error, ensure_ascii=False).encode()  # it can be sent to a client
    return failed.value.error


async def test_run_whose_outcome_cannot_be_read_ends_as_error(
    manager: RunManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "coordinator")  # half a character cannot be sent between test processes
    runs: list[tuple[OddAgent, str]] = []
    for agent in ODD_AGENTS:
        run = await manager.create_or_reject(f"t-{agent.__name__}")
        manager.launch(run, agent)
        runs.append((agent, run.run_id))
    for agent, run_id in runs:
        error = await ended(manager, run_id)
        assert error.strip(), agent.__name__
        assert not await manager.has_inflight(f"t-{agent.__name__}")


async def exits(ctx: object) -> None:
    sys.exit(2)


async def exits_in_a_thread(ctx: object) -> None:
    await asyncio.to_thread(sys.exit, 2)


async def exits_in_a_task_of_its_own(ctx: object) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(exits(ctx))


async def interrupts(ctx: object) -> None:
    raise KeyboardInterrupt


def _interrupt() -> None:
    raise KeyboardInterrupt


async def interrupts_in_a_thread(ctx: object) -> None:
    await asyncio.to_thread(_interrupt)


async def interrupts_in_a_task_of_its_own(ctx: object) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(interrupts(ctx))


EXITS = (
    exits,
    exits_in_a_thread,
    exits_in_a_task_of_its_own,
    interrupts,
    interrupts_in_a_thread,
    interrupts_in_a_task_of_its_own,
)


@pytest.mark.parametrize("agent", EXITS)
async def test_sys_exit_and_keyboard_interrupt_end_the_run_alone(
    manager: RunManager, agent: Callable[..., Any]
) -> None:
    """asyncio lets both out of the event loop: the process would end, with every other run in it. For tasks
    that the run makes itself the process has to be prepared, as servers are."""
    loop = asyncio.get_running_loop()
    contain_tasks(loop)
    try:
        other, neighbour = await running(manager, "other")
        run = await manager.create_or_reject("t")
        manager.launch(run, agent)
        error = await ended(manager, run.run_id)
        neighbour.may_end.set()
        await manager.wait(other.run_id, timeout=20)
    finally:
        loop.set_task_factory(None)
    assert "sys.exit(2)" in error or "KeyboardInterrupt" in error or "sub-exception" in error


async def signals(ctx: object) -> None:
    """As the keys Ctrl+C do, twice: asyncio answers the first with a cancel of the main task."""
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def python_handles_interrupts() -> Generator[None]:
    """A shell that starts the tests in the background has them ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handles_interrupts")
def test_interrupt_by_a_signal_while_a_run_executes_ends_the_process() -> None:
    async def main() -> None:
        contain_tasks(asyncio.get_running_loop())
        async with RunManager() as manager:
            run = await manager.create_or_reject("t")
            manager.launch(run, signals)
            await manager.wait(run.run_id, timeout=20)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())


@pytest.mark.usefixtures("python_handles_interrupts")
def test_interrupt_by_a_signal_without_asyncios_handler_ends_the_process() -> None:
    async def main() -> None:
        contain_tasks(asyncio.get_running_loop())
        context = contextvars.copy_context()
        context.run(current_run.set, cast("Any", object()))
        await asyncio.create_task(signals(None), context=context)

    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(main())
    finally:
        loop.close()


def test_sys_exit_outside_of_runs_ends_the_process() -> None:
    async def main() -> None:
        contain_tasks(asyncio.get_running_loop())
        await asyncio.create_task(exits(None))

    with pytest.raises(SystemExit):
        asyncio.run(main())


async def test_assistant_that_returns_no_outcome_ends_as_error_with_the_reason(manager: RunManager) -> None:
    run = await manager.create_or_reject("t")
    manager.launch(run, ReturnsDict(assembly_of(manager).shared.values))
    assert "dict" in await ended(manager, run.run_id)


async def test_operation_whose_error_cannot_be_read_frees_its_thread(manager: RunManager) -> None:
    with pytest.raises(UnreadableError):
        async with manager.threads.hold("t", "import"):
            raise UnreadableError
    assert not await manager.has_inflight("t")


def refuse(manager: RunManager, name: str, error: Exception, times: float) -> list[Any]:
    """The store's `name` fails with `error` for the first `times` calls. Returns the list of the calls."""
    write, calls = getattr(manager.store, name), list[Any]()

    async def refusing(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) <= times:
            raise error
        return await write(*args, **kwargs)

    setattr(manager.store, name, refusing)
    return calls


MISTAKES = pytest.mark.parametrize(
    "mistake",
    [
        sqlite3.DataError("string or blob too big"),
        asyncpg.UntranslatableCharacterError("character with byte sequence 0xe2 0x82 0xac in encoding"),
        RuntimeError("half a character: \ud83d"),
    ],
    ids=lambda error: type(error).__name__,
)


@MISTAKES
async def test_end_that_the_store_refuses_is_written_as_harmless_error(
    manager: RunManager, mistake: Exception
) -> None:
    run, agent = await running(manager, "t", Agent(returns={"text": "x"}))
    calls = refuse(manager, "finish", mistake, times=1)
    agent.may_end.set()
    error = await ended(manager, run.run_id)
    assert error.isascii()
    assert type(mistake).__name__ in error
    assert len(calls) == 2


async def test_error_text_that_the_store_refuses_is_kept_escaped(manager: RunManager) -> None:
    run = await manager.create_or_reject("t")
    refuse(manager, "finish", sqlite3.DataError("no such character here"), times=1)

    async def fails(ctx: object) -> None:
        raise RuntimeError("500 € are too much")

    manager.launch(run, fails)
    error = await ended(manager, run.run_id)
    assert error.isascii()
    assert "500" in error
    assert "are too much" in error


async def test_end_that_the_store_refuses_repeatedly_is_retried(
    manager: RunManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.runs.refusals.AGAIN", 0.01)
    run, agent = await running(manager, "t", Agent(returns=1))
    calls = refuse(manager, "finish", StoreRefused("the role lacks a right"), times=5)
    agent.may_end.set()
    assert await manager.wait(run.run_id, timeout=20) == 1
    assert len(calls) == 6
    assert not await manager.has_inflight("t")


async def test_error_text_does_not_grow_while_the_store_refuses_every_end(
    manager: RunManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.runs.refusals.AGAIN", 0.01)
    run, agent = await running(manager, "t", Agent(returns=1))
    refuse(manager, "finish", RuntimeError("the disk is on strike"), times=8)
    agent.may_end.set()
    assert (await ended(manager, run.run_id)).count("on strike") == 1


async def test_worker_can_leave_while_the_store_refuses_the_end_of_a_run(alone: RunManager) -> None:
    _, agent = await running(alone, "t", Agent(returns=1))
    calls = refuse(alone, "finish", RuntimeError("again"), times=float("inf"))
    agent.may_end.set()
    await wait_until(lambda: len(calls) > 2, description="it is tried again")
    await alone.aclose()


async def test_waiting_run_may_end_with_refused_error_text(manager: RunManager) -> None:
    await running(manager, "t")
    waiting = await manager.create_or_reject("t", multitask_strategy="enqueue")
    refuse(manager, "update_status", sqlite3.DataError("no such character here"), times=1)
    await manager.set_status(waiting.run_id, RunStatus.error, error="€")
    assert "no such character" in await ended(manager, waiting.run_id)


async def test_waiting_run_without_an_error_text_ends_although_the_store_refuses_its_end(
    manager: RunManager,
) -> None:
    await running(manager, "t")
    waiting = await manager.create_or_reject("t", multitask_strategy="enqueue")
    refuse(manager, "update_status", sqlite3.DataError("no such character here"), times=1)
    await manager.set_status(waiting.run_id, RunStatus.interrupted)

    async def is_interrupted() -> bool:
        return (await row(manager, waiting.run_id))["status"] == "interrupted"

    await wait_until(is_interrupted, description="it has ended")


async def test_callers_own_task_may_end_with_refused_error_text(manager: RunManager) -> None:
    run = await manager.create_or_reject("t")
    await manager.set_status(run.run_id, RunStatus.running)
    refuse(manager, "finish", sqlite3.DataError("no such character here"), times=1)
    await manager.set_status(run.run_id, RunStatus.error, error="€")
    assert "no such character" in await ended(manager, run.run_id)
