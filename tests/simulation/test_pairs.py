"""The list of await points, against the source of the product; and how seeds are aimed at them."""

from __future__ import annotations

import ast
import gc
import inspect
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from stores.base import CoordinationStore
from tests.simulation import __main__ as command
from tests.simulation import pairs
from tests.simulation.campaign import Batch, laboratory, run_seed
from tests.simulation.pairs import EVERY, IMPOSSIBLE, POSSIBLE, Tally, aim_of, seeds_for
from tests.simulation.points import ALIASES, CALLERS, NEVER, NO_CALLER_WAITS, WAYS, Point
from tests.simulation.scenes import SCENES
from tests.simulation.store import READS, WRITES, Database

SOURCE = Path(__file__).parents[2] / "coordinator"
ELSEWHERE = ("cli", "testing")
"""Processes of their own, or no product."""


def calls(node: ast.AST, within: tuple[str, ...] = ()) -> Iterator[Point]:
    """Yields each operation of the store that is called or passed on, and the function that does it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from calls(child, (*within, child.name))
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from calls(child, (*within, child.name, "<locals>"))
        else:
            if isinstance(child, ast.Attribute) and child.attr in WRITES | READS and _is_store(child.value):
                yield ".".join(within[:-1]), child.attr
            yield from calls(child, within)


def _is_store(receiver: ast.expr) -> bool:
    return ast.unparse(receiver).split(".")[-1] in ("store", "_store")


def source_points() -> set[Point]:
    points = set[Point]()
    gc.disable()  # CPython 3.11 refuses to parse where a collection has run Python code meanwhile (gh-106905)
    try:
        for path in SOURCE.rglob("*.py"):
            if path.relative_to(SOURCE).parts[0] not in ELSEWHERE:
                points.update(calls(ast.parse(path.read_text("utf-8"))))
    finally:
        gc.enable()
    return {ALIASES.get(point, point) for point in points}


def test_every_await_point_of_the_source_is_listed() -> None:
    """The outbox makes pending calls for other functions: those points are checked by a campaign."""
    listed = {point for point in WAYS if point[0] != "Outbox._attempt"}
    assert source_points() - set(NEVER) == listed


def test_every_method_of_the_port_is_an_await_point() -> None:
    port = {
        name
        for base in inspect.getmro(CoordinationStore)
        for name, method in vars(base).items()
        if not name.startswith("_") and inspect.isfunction(method)
    }
    assert port - {"open", "aclose", "proven_dead", "proven_alive"} <= WRITES | READS


def test_every_way_leads_to_a_scene_and_every_exception_is_about_a_point() -> None:
    assert {*WAYS.values(), *CALLERS.values()} <= set(SCENES)
    assert set(CALLERS) <= set(WAYS)
    assert set(NO_CALLER_WAITS) <= set(WAYS)
    assert not set(CALLERS) & set(NO_CALLER_WAITS)
    for scene in SCENES.values():
        assert {aim[:2] for aim in (*scene.aims, *scene.helps)} <= set(WAYS), scene.course


def test_in_turn_every_pair_is_aimed_at() -> None:
    seeds = range(EVERY * len(POSSIBLE))
    assert Counter(aim for seed in seeds if (aim := aim_of(seed))) == Counter(POSSIBLE)
    assert not set(POSSIBLE) & set(IMPOSSIBLE)


def test_a_seed_hits_what_it_is_aimed_at() -> None:
    aim = ("Endings._refence", "refence", "after", "fail")
    first = EVERY * POSSIBLE.index(aim) + EVERY - 1
    batch = Batch()
    with laboratory():
        database = Database()
        for turn in range(15):
            run_seed(first + turn * EVERY * len(POSSIBLE), database, batch)
    assert batch.met[aim] >= 3


def test_campaign_reports_points_that_are_not_listed_or_listed_as_impossible() -> None:
    met = Counter({("Unknown.function", "admit", "before", "nothing"): 1, next(iter(IMPOSSIBLE)): 1})
    tally = Tally(met)
    assert len(tally.wrong()) == 2
    assert len(tally.unmet) == len(POSSIBLE)


def test_seeds_for_a_pair_are_those_that_are_aimed_at_it() -> None:
    every = EVERY * len(POSSIBLE)
    for aim in POSSIBLE[::100]:
        for beyond in (0, 5, every - 1, 100_000):
            seeds = list(islice(seeds_for(aim, beyond), 2))
            assert [seed for seed in range(beyond, beyond + 2 * every) if aim_of(seed) == aim] == seeds


@pytest.mark.parametrize(("turns", "fails"), [(0, 1), (1, 0)])
def test_the_long_form_aims_again_at_what_was_not_met_and_fails_where_that_does_not_help(
    monkeypatch: pytest.MonkeyPatch, turns: int, fails: int
) -> None:
    few = (("Endings._refence", "refence", "after", "fail"), ("Watch._tick", "tick", "before", "slow"))
    monkeypatch.setattr(pairs, "POSSIBLE", few)
    for name, value in {"POSSIBLE": few, "LONG": 3, "TURNS": turns, "MORE": 20}.items():
        monkeypatch.setattr(command, name, value)
    assert command.main(["--first", "0", "--seeds", "3", "--jobs", "1"]) == fails


def test_a_short_campaign_need_not_meet_every_pair() -> None:
    assert command.main(["--first", "0", "--seeds", "3", "--jobs", "1"]) == 0
