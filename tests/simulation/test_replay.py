"""The histories of the simulation on PostgreSQL: the same answers, the same rows, the same audit."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation.bugs import BUGS
from tests.simulation.replay import Replay, histories, replay_batch
from tests.simulation.store import Asked
from tests.support.postgres import Database

SEEDS = 40


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("untraced")
def test_postgresql_answers_what_the_simulation_has_seen(shared_postgres: Database) -> None:
    done = replay_batch(range(SEEDS), shared_postgres)
    assert done.seeds == SEEDS
    assert done.calls > 50 * SEEDS
    assert not done.differed, (
        f"replay: make simulate ARGS=--replay SEED={min(done.differed)}; {done.differed}"
    )


def test_an_engine_that_forgets_a_rule_is_found(shared_postgres: Database) -> None:
    with BUGS["admit-ignores-the-key"].planted():
        done = replay_batch([91], shared_postgres)
    assert "admit" in done.differed[91]


def replayed(history: list[Asked], server: Database) -> str:
    return asyncio.run(Replay(server)([(1, history)])).differed[1]


def test_another_answer_is_found(shared_postgres: Database) -> None:
    [(_, history)] = histories([1])
    at = next(at for at, asked in enumerate(history) if asked.op == "register")
    history[at] = history[at]._replace(answer=17)
    assert replayed(history, shared_postgres).startswith(f"call {at + 1} of {len(history)}: register")
