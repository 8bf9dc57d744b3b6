"""A manager lives in one event loop. A call from another one is refused without effect."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from coordinator import MemoryRunStore, RunContext, RunManager, Settings, open_coordinator
from coordinator.errors import CoordinatorError, StoreError, WrongEventLoop
from stores.assistants import AssistantRow
from stores.catalogue import ThreadPatch
from stores.crons import CronRow, Firing
from stores.event_loop import HomeLoop
from tests.support.agents import Agent, quick, running
from tests.support.inside import assembly_of
from tests.support.public import public_methods
from tests.support.teams import QUICK, on_every_store

ARGUMENTS: dict[str, Any] = {
    "status": "success",
    "name": "a name",
    "error": "an error",
    "values": {},
    "patch": ThreadPatch({}),
    "limit": 1,
    "lease": 1.0,
    "attempt": 1,
    "report": None,
    "cron": CronRow(
        *("c", None, "agent", None, "* * * * *", None), True, None, None, {"assistant_id": "agent"}, {}, None
    ),
    "firing": Firing("c", 0, 0),
    "assistant": AssistantRow("a", None, "agent", "a"),
    "version": 1,
}
"""For parameters without a default; all others are ids."""


def calls() -> dict[str, Callable[[RunManager], Any]]:
    """Every public coroutine method of the manager and its nouns, with arguments."""
    calling: dict[str, Callable[[RunManager], Any]] = {}
    for name, method in public_methods().items():
        if not inspect.iscoroutinefunction(method):
            continue
        parameters = list(inspect.signature(method).parameters.values())[1:]
        needed = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
        args = {p.name: ARGUMENTS.get(p.name, "x") for p in needed}
        if name == "cleanup":
            args["delay"] = 0
        calling[name] = lambda manager, name=name, args=args: attrgetter(name)(manager)(**args)
    return calling


CALLS = calls()


@contextmanager
def kept_loop() -> Generator[asyncio.AbstractEventLoop]:
    """A loop that is open, and runs only during `run_until_complete`, as synchronous frameworks keep one."""
    loop = asyncio.new_event_loop()
    try:
        yield loop
    finally:
        loop.close()


async def from_another_loop(manager: RunManager, call: Callable[[RunManager], Any]) -> BaseException | None:
    """What the call raises in a thread with an event loop of its own."""

    async def calling() -> BaseException | None:
        try:
            async with asyncio.timeout(5):
                await call(manager)
        except Exception as error:  # noqa: BLE001 - the answer of this helper
            return error
        return None

    def thread() -> BaseException | None:
        with kept_loop() as loop:
            return loop.run_until_complete(calling())

    return await asyncio.to_thread(thread)


def test_every_public_method_is_tested() -> None:
    assert {"create_or_reject", "cancel", "wait", "get", "worker.health", "update_model_name"} < set(CALLS)
    assert len(CALLS) > 40


@on_every_store
async def test_call_from_another_event_loop_is_refused_and_the_manager_continues(
    team: list[RunManager],
) -> None:
    manager = team[0]
    run, agent = await running(manager, "t", Agent(returns="slow"))
    answers = {name: await from_another_loop(manager, call) for name, call in CALLS.items()}
    wrong = {name: error for name, error in answers.items() if not isinstance(error, WrongEventLoop)}
    assert not wrong
    assert not isinstance(answers["wait"], StoreError)
    assert "run_coroutine_threadsafe" in str(answers["wait"])
    agent.may_end.set()
    assert await manager.wait(run.run_id, timeout=20) == "slow"
    again = await manager.create_or_reject("t")
    manager.launch(again, quick)
    assert await manager.wait(again.run_id, timeout=20) == f"done {again.run_id}"
    assert manager.worker.pending_writes == 0
    assert (await manager.worker.health()).ready


async def test_iteration_and_contexts_are_refused_in_another_event_loop(alone: RunManager) -> None:
    async def following(manager: RunManager) -> None:
        async for _ in manager.follow("x"):
            pass

    async def looking_back(manager: RunManager) -> None:
        async for _ in manager.threads.history("x"):
            pass

    async def operating(manager: RunManager) -> None:
        async with manager.threads.hold("x", "import"):
            pass

    for call in (following, looking_back, operating):
        assert isinstance(await from_another_loop(alone, call), WrongEventLoop), call.__name__


async def test_properties_are_readable_from_any_thread(alone: RunManager) -> None:
    async def reading(manager: RunManager) -> None:
        assert manager.worker.epoch
        assert not manager.worker.draining
        assert (manager.worker.pending_writes, manager.worker.forced) == (0, 0)
        assert manager.worker.connectivity
        manager.worker.store_counters()

    assert await from_another_loop(alone, reading) is None


async def test_other_threads_call_by_run_coroutine_threadsafe(alone: RunManager) -> None:
    home = asyncio.get_running_loop()
    run, agent = await running(alone, "t")

    def thread() -> bool:
        return asyncio.run_coroutine_threadsafe(alone.cancel(run.run_id, wait=10), home).result(20)

    assert await asyncio.to_thread(thread)
    assert agent.stopped.is_set()


async def test_run_context_is_refused_in_another_loop(alone: RunManager) -> None:
    errors: list[BaseException | None] = []

    async def agent(ctx: RunContext) -> str:
        async def save(_: RunManager) -> None:
            await ctx.save({"a": 1})

        async def emit(_: RunManager) -> None:
            await ctx.emit("custom", 1)

        async def progress(_: RunManager) -> None:
            ctx.progress(total_tokens=1)

        errors.extend([await from_another_loop(alone, call) for call in (save, emit, progress)])
        return "done"

    run = await alone.create_or_reject("t")
    alone.launch(run, agent)
    assert await alone.wait(run.run_id, timeout=20) == "done"
    assert [type(error) for error in errors] == [WrongEventLoop] * 3


def one_run(manager: RunManager, thread_id: str = "t") -> Callable[[], Any]:
    async def agent(ctx: RunContext) -> int:
        await asyncio.sleep(0)
        return 1

    async def running_one() -> Any:
        run = await manager.create_or_reject(thread_id, multitask_strategy="enqueue")
        manager.launch(run, agent)
        return await manager.wait(run.run_id, timeout=20)

    return running_one


@pytest.mark.parametrize("store", [None, MemoryRunStore], ids=["no store", "record store"])
def test_manager_in_memory_moves_to_the_next_loop_when_its_own_is_closed(
    store: Callable[[], Any] | None,
) -> None:
    manager = RunManager(None if store is None else store())
    assert [asyncio.run(one_run(manager)()) for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("store", [None, MemoryRunStore], ids=["no store", "record store"])
def test_many_threads_with_a_loop_each_get_an_answer_or_a_clear_refusal(
    store: Callable[[], Any] | None,
) -> None:
    manager, answers = RunManager(None if store is None else store()), Counter[str]()
    home = asyncio.new_event_loop()
    assert home.run_until_complete(one_run(manager, "home")()) == 1

    def thread(number: int) -> None:
        for _ in range(20):
            try:
                answers[str(asyncio.run(one_run(manager, f"t{number}")()))] += 1
            except CoordinatorError as error:
                answers[type(error).__name__] += 1

    threads = [threading.Thread(target=thread, args=(number,), daemon=True) for number in range(8)]
    for each in threads:
        each.start()
    assert home.run_until_complete(one_run(manager, "home")()) == 1
    for each in threads:
        each.join(20)
    assert answers == {"WrongEventLoop": 160}
    assert home.run_until_complete(one_run(manager, "home")()) == 1
    home.run_until_complete(manager.aclose())
    home.close()


def test_managers_of_several_threads_may_share_one_store_in_memory() -> None:
    store, answers = MemoryRunStore(), list[Any]()

    def thread(number: int) -> None:
        manager = RunManager(store)
        for _ in range(20):
            answers.append(asyncio.run(one_run(manager, f"t{number}")()))

    threads = [threading.Thread(target=thread, args=(number,), daemon=True) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)
    assert answers == [1] * 80


def test_store_opened_in_a_closed_loop_raises_wrong_event_loop(tmp_path: Path) -> None:
    manager: list[RunManager] = []

    async def first() -> None:
        settings = Settings(store=f"sqlite:///{tmp_path / 'runs.db'}", **QUICK)
        opened = open_coordinator(settings=settings)
        manager.append(await opened.__aenter__())
        await manager[0].create_or_reject("t")

    with kept_loop() as loop:
        loop.run_until_complete(first())
    with pytest.raises(WrongEventLoop, match="event loop"):
        asyncio.run(manager[0].create_or_reject("u"))
    assert manager[0].worker.pending_writes == 0
    asyncio.run(assembly_of(manager[0]).pacemaker.stop())
    with kept_loop() as another:  # releases its gate, which later tests of this process would find
        another.run_until_complete(manager[0].store.aclose())


def test_caller_without_an_event_loop_is_accepted() -> None:
    home = HomeLoop("test")
    home.check()
    with kept_loop() as loop:
        loop.call_soon(home.check)
        loop.run_until_complete(asyncio.sleep(0))
        home.check()
