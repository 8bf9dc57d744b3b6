"""The protocol holds in every reachable state, and each of its guards is needed."""

from __future__ import annotations

import json

import pytest

from tests.model.__main__ import check, main, weakest
from tests.model.exploration import canonical
from tests.model.scenarios import SCENARIOS, first_state
from tests.model.states import Run
from tests.model.weaknesses import WEAKNESSES

FAULTS = 2

pytestmark = pytest.mark.usefixtures("untraced")


@pytest.mark.slow
@pytest.mark.timeout(300)  # the largest takes 14 s of CPU; the machine may be busy
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_everything_holds_in_every_state(scenario: str) -> None:
    result = check(scenario, FAULTS)
    assert result.violation is None, "\n".join((result.violation, *result.trace))
    assert result.states > 10_000


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", WEAKNESSES)
def test_no_guard_can_be_left_out(name: str) -> None:
    _, result = weakest(name, faults=FAULTS)
    assert result.violation is not None
    assert result.trace


def test_each_scenario_has_weaknesses_of_its_own() -> None:
    assert {weakness.scenario for weakness in WEAKNESSES.values()} == SCENARIOS.keys()
    assert len(WEAKNESSES) >= 14


def test_states_that_differ_in_names_alone_are_one() -> None:
    first = first_state(SCENARIOS["core"])
    one, two = first.workers
    renamed = first._replace(
        workers=(one._replace(epoch=5), two._replace(epoch=9)), declared_dead=frozenset({1}), epochs=9
    )
    assert canonical(renamed) == canonical(first)
    settled = first.with_run(0, status="success", owner=0, fence=0, started=True, values_at_start=0)
    assert canonical(settled).runs[0] == Run("success")


def test_the_command_line_shows_the_way_to_a_violation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--faults", "0", "--weaken", "free_on_cancel"]) == 1
    text = capsys.readouterr().out
    assert "VIOLATION I4" in text
    assert "1 admit 0 (reject) by 0" in text


def test_the_command_line_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--faults", "0", "--scenario", "rollback", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["results"][0]["violation"] is None
    assert document["results"][0]["states"] > 20
