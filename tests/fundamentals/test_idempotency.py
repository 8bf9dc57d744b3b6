"""One key is one run, on every worker; the same key with another body is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from coordinator import IdempotencyConflict, InvalidArgument, RunManager
from coordinator.runs.idempotency import body_hash
from coordinator.runs.limits import TimeLimits
from coordinator.runs.specs import spec_of
from tests.support.agents import Agent, quick, running

ANYWHERE = pytest.mark.parametrize("second", [0, 1], ids=["same worker", "other worker"])


@ANYWHERE
async def test_repeated_request_returns_the_existing_run(team: list[RunManager], second: int) -> None:
    """Also while the run holds the thread: a repetition is no conflict."""
    run, _ = await running(team[0], "t", idempotency_key="k", kwargs={"q": 1})
    again = await team[second].create_or_reject("t", idempotency_key="k", kwargs={"q": 1})
    assert again.run_id == run.run_id
    assert again.already_admitted
    assert not run.already_admitted


@ANYWHERE
async def test_repeated_request_executes_once(team: list[RunManager], second: int) -> None:
    await team[0].create_or_reject("t", idempotency_key="k")
    again = await team[second].create_or_reject("t", idempotency_key="k")
    with pytest.raises(InvalidArgument):
        team[second].launch(again, quick)


@ANYWHERE
async def test_repeated_request_returns_the_ended_run(team: list[RunManager], second: int) -> None:
    run, agent = await running(team[0], "t", Agent(returns=1), idempotency_key="k")
    agent.may_end.set()
    await team[0].wait(run.run_id, timeout=20)
    again = await team[second].create_or_reject("t", idempotency_key="k", multitask_strategy="reject")
    assert again.run_id == run.run_id
    assert not await team[0].has_inflight("t")


@ANYWHERE
async def test_same_key_with_another_body_is_refused(team: list[RunManager], second: int) -> None:
    await team[0].create_or_reject("t", idempotency_key="k", kwargs={"q": 1})
    with pytest.raises(IdempotencyConflict):
        await team[second].create_or_reject("t", idempotency_key="k", kwargs={"q": 2})


@ANYWHERE
async def test_same_key_on_another_thread_is_refused(team: list[RunManager], second: int) -> None:
    await team[0].create_or_reject("t", idempotency_key="k")
    with pytest.raises(IdempotencyConflict):
        await team[second].create_or_reject("another", idempotency_key="k")


class Opaque:
    """A caller's own object: its text has an address."""


class Speechless:
    def __str__(self) -> str:
        raise RuntimeError("no text")


CYCLE: dict[str, Any] = {}
CYCLE["again"] = CYCLE


def deep() -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for _ in range(5000):
        nested = {"k": nested}
    return nested


ODD_KWARGS: dict[str, Callable[[], dict[str, Any]]] = {
    "keys of two types": lambda: {"q": {1: "a", "b": 2}},
    "tuple keys": lambda: {"q": {("a", 1): 2}},
    "tuples": lambda: {"q": (1, (2, 3))},
    "a cycle": lambda: CYCLE,
    "too deep": deep,
    "not a number": lambda: {"q": float("nan")},
    "an object": lambda: {"q": [Opaque()], "r": Opaque},
    "no text": lambda: {"q": Speechless()},
    "no text, two types": lambda: {"q": {1: Speechless(), "b": 2}},
    "a set": lambda: {"q": {"a", "b", "c", "d", "e"}},
    "half a character": lambda: {"q": "\ud83d"},
}


@ANYWHERE
@pytest.mark.parametrize("odd", ODD_KWARGS.values(), ids=ODD_KWARGS.keys())
async def test_repeated_request_with_unstorable_kwargs_returns_its_run(
    team: list[RunManager], second: int, odd: Callable[[], dict[str, Any]]
) -> None:
    run = await team[0].create_or_reject("t", idempotency_key="k", kwargs=odd())
    again = await team[second].create_or_reject("t", idempotency_key="k", kwargs=odd())
    assert again.run_id == run.run_id
    with pytest.raises(IdempotencyConflict):
        await team[second].create_or_reject("t", idempotency_key="k", kwargs={**odd(), "more": 1})


HASH = """
from coordinator.runs.idempotency import body_hash
from coordinator.runs.specs import spec_of
from tests.fundamentals.test_idempotency import ODD_KWARGS
for name, odd in ODD_KWARGS.items():
    print(name, body_hash(spec_of(thread_id="t", idempotency_key="k", kwargs=odd())))
"""


def test_hash_of_a_request_is_equal_in_every_process() -> None:
    answers: list[str] = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONMALLOC": "malloc" if seed == "2" else ""}
        ran = subprocess.run(
            [sys.executable, "-c", HASH],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        answers.append(ran.stdout)
    assert answers[0] == answers[1]
    assert len(answers[0].splitlines()) == len(ODD_KWARGS)


def test_hash_of_a_plain_request_never_changes() -> None:
    """Workers of other versions compare it."""
    spec = spec_of(
        thread_id="t",
        assistant_id="a",
        idempotency_key="k",
        kwargs={"q": {"b": [1, 2.5, None, True], "a": "ü"}},
        metadata={"m": 1},
        limits=TimeLimits(timeout=3),
        webhook="https://example.com",
    )
    assert body_hash(spec) == "7c1a7f41251fce9caa17a33d841311bf386058d9721acb86846944f2b1f0164a"


async def test_kwargs_are_equal_on_every_worker(team: list[RunManager]) -> None:
    run = await team[0].create_or_reject("t", kwargs={"input": {1: (2,), "k": [1.0]}})
    there = await team[1].get(run.run_id)
    assert there is not None
    assert run.kwargs == there.kwargs == {"input": {"1": [2], "k": [1.0]}}
