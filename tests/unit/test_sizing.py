"""The guide to sizing holds what bench/sizing.py computes from the measured costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bench import sizing
from bench.costs import Costs
from bench.sizing import Capacity, demand, first_limit, hint_cores
from coordinator.settings import Settings
from stores.postgres import Options
from tests.support.inside_stores import dedicated_connections

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "sizing.md").read_text()

ONE_OF_EACH = Costs(**{field.name: 1.0 for field in dataclasses.fields(Costs)})
"""Each cost is 1."""


def test_guide_has_the_measured_costs() -> None:
    assert sizing.constants(Costs.read()) in GUIDE


def test_guide_has_the_table_that_follows_from_them() -> None:
    assert sizing.table(Costs.read(), Capacity(), sizing.WORKERS, sizing.RATES) in GUIDE


def test_guide_states_how_many_hints_take_a_core() -> None:
    hints = 1 / hint_cores(Costs.read(), workers=1_000, hints_per_second=1)
    assert f"With 1,000 workers {hints:.0f} hints per second take a core." in GUIDE


def test_constants_are_those_of_the_code() -> None:
    assert Settings().sweep == sizing.SWEEP
    assert Options().connections + dedicated_connections() + 2 == sizing.CONNECTIONS


def test_demand_follows_the_formula_of_the_guide() -> None:
    costs = dataclasses.replace(
        ONE_OF_EACH, idle_postgres_cpu=2_000, peer_cpu=5, run_postgres_cpu_alone=300, run_wal=4_000
    )
    needed = demand(costs, workers=100, runs_per_second=1_000)
    assert needed.postgres_cores == pytest.approx((100 * (2_000 + 100 * 5 / 5) + 1_000 * 300) / 1e6)
    assert needed.postgres_connections == 1_900
    assert needed.wal == 4e6
    assert needed.redis_cores == pytest.approx((100 + 1_000) / 1e6)
    assert needed.worker_cores == pytest.approx(10 / 1e6)


def test_busy_workers_write_in_batches() -> None:
    costs = dataclasses.replace(
        ONE_OF_EACH,
        idle_postgres_cpu=0,
        peer_cpu=0,
        run_postgres_cpu_alone=1_000,
        run_postgres_cpu_batched=100,
    )
    assert demand(costs, workers=10, runs_per_second=999).postgres_cores == pytest.approx(0.999)
    assert demand(costs, workers=10, runs_per_second=1_000).postgres_cores == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("postgres_cores", "CPU of PostgreSQL"),
        ("postgres_connections", "connections"),
        ("wal", "WAL"),
        ("redis_cores", "CPU of Redis"),
    ],
)
def test_first_limit_is_what_is_used_most(field: str, name: str) -> None:
    needed = demand(ONE_OF_EACH, workers=10, runs_per_second=10)
    scarce = dataclasses.replace(Capacity(), **{field: getattr(needed, field) / 2})
    assert first_limit(needed, scarce) == (name, 2)


def test_a_worker_whose_core_is_busy_is_the_limit() -> None:
    costs = dataclasses.replace(ONE_OF_EACH, run_worker_cpu=2_000)
    assert first_limit(demand(costs, workers=1, runs_per_second=1_000), Capacity()) == ("workers", 2)


def test_hints_without_redis_wake_every_worker() -> None:
    costs = dataclasses.replace(ONE_OF_EACH, wake_up_cpu=25)
    assert hint_cores(costs, workers=1_000, hints_per_second=40) == 1
