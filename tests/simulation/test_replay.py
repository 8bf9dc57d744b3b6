"""The histories of the simulation on PostgreSQL: the same answers, the same rows, the same audit."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation.bugs import BUGS
from tests.simulation.campaign import known_seeds
from tests.simulation.replay import Replay, histories, replay_batch
from tests.simulation.store import StoreCall
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
    bug = "admit-ignores-the-key"
    seed = known_seeds()[bug]
    with BUGS[bug].planted():
        done = replay_batch([seed], shared_postgres)
    assert "admit" in done.differed[seed]


def replayed(history: list[StoreCall], server: Database) -> str:
    return asyncio.run(Replay(server)([(1, history)])).differed[1]


def test_another_answer_is_found(shared_postgres: Database) -> None:
    [(_, history)] = histories([1])
    at = next(at for at, call in enumerate(history) if call.op == "register")
    history[at] = history[at]._replace(answer=17)
    assert replayed(history, shared_postgres).startswith(f"call {at + 1} of {len(history)}: register")
