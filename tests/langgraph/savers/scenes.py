"""What a run may do to the checkpoints of earlier runs: the state before it, and the run itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from langgraph.types import Command

from tests.langgraph.savers.running import Driver, plain, questions, resume, with_subgraph

Act = Callable[[Driver], Awaitable[Any]]


class Scene(NamedTuple):
    graph: Callable[[], Any]
    before: Act
    run: Act


async def nothing(driver: Driver) -> None:
    pass


async def _start(driver: Driver) -> Any:
    return await driver.run({"log": ["input"]})


async def _start_twice(driver: Driver) -> Any:
    await _start(driver)
    return await driver.run({"log": ["again"]})


async def _answer(driver: Driver) -> Any:
    return await driver.run(resume("answer"))


async def _start_and_answer(driver: Driver) -> Any:
    await _start(driver)
    return await _answer(driver)


async def _goto(driver: Driver) -> Any:
    return await driver.run(Command(update={"log": ["update"]}, goto="three"))


async def _skip(driver: Driver) -> Any:
    return await driver.run(Command(goto="after"))


async def _fork(driver: Driver) -> Any:
    old = (await driver.history())[-2].config["configurable"]["checkpoint_id"]
    return await driver.run(None, at=old)


async def _fork_with_input(driver: Driver) -> Any:
    old = (await driver.history())[-2].config["configurable"]["checkpoint_id"]
    return await driver.run({"log": ["fork"]}, at=old)


async def _update(driver: Driver) -> None:
    await driver.update({"log": ["update"]}, as_node="before")


async def _remove_and_start(driver: Driver) -> Any:
    async with driver.holding():
        await driver.saver.adelete_thread(driver.thread_id)
        return await driver.invoke({"log": ["new"]})


def _one() -> Any:
    return questions("one")


def _two() -> Any:
    return questions("one", "two")


SCENES: dict[str, Scene] = {
    "first run": Scene(plain, nothing, _start),
    "second run": Scene(plain, _start, _start),
    "stop at a question": Scene(_one, nothing, _start),
    "answer": Scene(_one, _start, _answer),
    "new input at a question": Scene(_one, _start, _start),
    "first of two answers in one node": Scene(_two, _start, _answer),
    "second of two answers in one node": Scene(_two, _start_and_answer, _answer),
    "update and goto": Scene(plain, _start, _goto),
    "update and goto at a question": Scene(_one, _start, _skip),
    "fork": Scene(plain, _start_twice, _fork),
    "fork with input": Scene(plain, _start_twice, _fork_with_input),
    "update of the state at a question": Scene(_one, _start, _update),
    "answer in a subgraph": Scene(lambda: with_subgraph(questions("one")), _start, _answer),
    "persistent subgraph": Scene(lambda: with_subgraph(questions(persistent=True)), _start_twice, _start),
    "answer in a persistent subgraph": Scene(
        lambda: with_subgraph(questions("one", "two", persistent=True)), _start_and_answer, _answer
    ),
    "removal of the thread by its run": Scene(_one, _start, _remove_and_start),
}
