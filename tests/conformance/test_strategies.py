"""The reference of the strategies finds errors: in a store, in a history, and in itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from stores.errors import ConflictError
from stores.memory import MemoryStore
from stores.rows import Limits, Ownership
from tests.conformance.run_store.machine import admission_of
from tests.conformance.run_store.model import Model, Own, Run
from tests.histories.linearizability import search
from tests.histories.sequential import Op
from tests.support import strategies
from tests.support.builders import SUCCESS, StoreClock, new_run, new_worker
from tests.support.strategies import STRATEGIES, InFlight, Placement

Rule = Callable[..., Placement]
right = strategies.placement


def reject_admits(strategy: str, in_flight: Iterable[InFlight], **fields: Any) -> Placement:
    return right("enqueue" if strategy == "reject" else strategy, in_flight, **fields)


def enqueue_is_refused(strategy: str, in_flight: Iterable[InFlight], **fields: Any) -> Placement:
    return right("reject" if strategy == "enqueue" else strategy, in_flight, **fields)


def enqueue_overtakes(strategy: str, in_flight: Iterable[InFlight], **fields: Any) -> Placement:
    placed = right(strategy, in_flight, **fields)
    return placed._replace(holds=True) if strategy == "enqueue" else placed


def interrupt_ends_no_run(strategy: str, in_flight: Iterable[InFlight], **fields: Any) -> Placement:
    return right("enqueue" if strategy == "interrupt" else strategy, in_flight, **fields)


def rollback_keeps_what_was_saved(strategy: str, in_flight: Iterable[InFlight], **fields: Any) -> Placement:
    return right("interrupt" if strategy == "rollback" else strategy, in_flight, **fields)


WRONG: tuple[tuple[Rule, str], ...] = (
    (reject_admits, "reject"),
    (enqueue_is_refused, "enqueue"),
    (enqueue_overtakes, "enqueue"),
    (interrupt_ends_no_run, "interrupt"),
    (rollback_keeps_what_was_saved, "rollback"),
)


async def store_and_model(strategy: str) -> tuple[list[Any], list[Any]]:
    """One run executes, another is admitted over it, the first returns: the answers of a store and of the
    model, and what became of the first run."""
    clock = StoreClock()
    store, model = MemoryStore(clock=clock), Model(clock())
    epoch = await store.register(new_worker())
    model.register(epoch, 15_000_000)
    seen, expected = list[Any](), list[Any]()
    owns: list[tuple[Ownership, Own]] = []
    for number, name in enumerate(("reject", strategy)):
        request = new_run(multitask_strategy=name)
        try:
            seen.append(admission_of(await store.admit(request, epoch=epoch, limits=Limits())))
        except ConflictError as error:
            seen.append(("ConflictError", error.active_run_id))
        expected.append(model.admit(Run(request.run_id, "t", number, None), name, epoch))
        if not owns:
            owns.append((Ownership(request.run_id, "t", epoch, 1), Own(request.run_id, "t", epoch, 1)))
            await store.start(owns[0][0], {})
            model.start(owns[0][1])
    own, modelled = owns[0]
    row = await store.row(own.run_id)
    assert row is not None
    seen.append((row.status, row.cancel_action))
    expected.append((model.runs[own.run_id].status, model.runs[own.run_id].action))
    finish = await store.finish(own, SUCCESS)
    seen.append((finish.status, finish.lost, finish.undo, finish.next_home))
    expected.append(model.finish(modelled, "success", None, paused=False, hold=False))
    return seen, expected


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_store_admits_as_the_reference(strategy: str) -> None:
    seen, expected = await store_and_model(strategy)
    assert seen == expected


@pytest.mark.parametrize(("wrong", "strategy"), WRONG, ids=[rule.__name__ for rule, _ in WRONG])
async def test_wrong_rule_contradicts_the_store(
    wrong: Rule, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategies, "placement", wrong)
    seen, expected = await store_and_model(strategy)
    assert seen != expected


# -- histories


def op(what: str, at: int, run: str = "one", **fields: Any) -> Op:
    return Op(what, "w", at, at, run=run, **fields)


FIRST = [
    op("admit", 1, args={"strategy": "reject"}),
    op("began", 2, fence=1, args={"values": "null"}),
    op("save", 3, args={"values": "1"}),
]
REFUSED: dict[str, Any] = {"outcome": "refused", "error": "ConflictError", "answer": {"active_run": "one"}}
STOPPED = op("stopped", 6, args={"outcome": "cancelled"})
RIGHT: dict[str, list[Op]] = {
    "reject": [replace(op("admit", 4, "two", **REFUSED), args={"strategy": "reject"})],
    "enqueue": [
        op("admit", 4, "two", args={"strategy": "enqueue"}),
        op("admit", 5, "three", args={"strategy": "enqueue"}),
        op("cancel", 5, "three", answer={"result": True}),
        op("wait", 5, "three", answer={"status": "interrupted"}),
        op("stopped", 6, args={"outcome": "success"}),
        op("wait", 7, answer={"status": "success"}),
        op("began", 8, "two", fence=2, args={"values": "1"}),
    ],
    "interrupt": [
        op("admit", 4, "two", args={"strategy": "interrupt"}),
        op("get", 5, answer={"status": "interrupted"}),
        STOPPED,
        op("began", 8, "two", fence=2, args={"values": "1"}),
    ],
    "rollback": [
        op("admit", 4, "two", args={"strategy": "rollback"}),
        op("get", 5, answer={"status": "interrupted"}),
        STOPPED,
        op("began", 8, "two", fence=2, args={"values": "null"}),
    ],
}
"""What each strategy does to a run that has saved a value, as callers and the runs' code see it."""


def explained(ops: list[Op]) -> bool:
    return search(ops, budget=5).linearizable


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_history_of_a_strategy_is_explained(strategy: str) -> None:
    assert explained(FIRST + RIGHT[strategy])


@pytest.mark.parametrize(
    ("requested", "happened"),
    [(requested, happened) for requested in STRATEGIES for happened in STRATEGIES if requested != happened],
)
def test_history_of_another_strategy_is_refused(requested: str, happened: str) -> None:
    """Each strategy has its own history: that of another is a planted error."""
    admit, *rest = RIGHT[happened]
    assert not explained([*FIRST, replace(admit, args={"strategy": requested}), *rest])


def test_overlapping_holders_are_refused() -> None:
    assert not explained([*FIRST, RIGHT["enqueue"][0], op("began", 5, "two", fence=2, args={"values": "1"})])


@pytest.mark.parametrize(("wrong", "strategy"), WRONG, ids=[rule.__name__ for rule, _ in WRONG])
def test_wrong_rule_does_not_explain_the_history(
    wrong: Rule, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategies, "placement", wrong)
    assert not explained(FIRST + RIGHT[strategy])
