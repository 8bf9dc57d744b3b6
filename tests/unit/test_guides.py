"""What the guides state about defaults and classes is what the code has."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from coordinator.context import RunContext
from coordinator.record import RunRecord
from coordinator.schemas import Abort, RunRequest
from coordinator.settings import Settings
from coordinator.workers.health import Health
from stores.postgres import Options
from tests.support.inside_stores import dedicated_connections

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ROOT / "docs" / "guides"
POSTGRESQL = (GUIDES / "postgresql.md").read_text()
DEDICATED = dedicated_connections() + 2  # of heartbeat and hints
NUMBERS = {7: "seven", 8: "eight", 9: "nine", 10: "ten", 11: "eleven"}
"""As the guide writes them."""


def test_connections_of_a_worker_are_counted_alike_everywhere() -> None:
    description = Settings.model_fields["postgres_connections"].description
    assert description is not None
    assert f"up to {DEDICATED} more" in description
    assert f"{NUMBERS[DEDICATED]} more are for" in POSTGRESQL
    assert f"`max_connections`: {Options().connections + DEDICATED} for each worker process" in POSTGRESQL


@pytest.mark.parametrize("name", ["README.md", "docs/guides/postgresql.md"])
def test_retention_is_documented_with_its_default_and_how_to_keep_all(name: str) -> None:
    text = " ".join((ROOT / name).read_text().split())
    kept = Settings().keep_runs
    assert kept is not None
    assert f"removed after {kept / 86_400:g} days" in text
    assert "COORDINATOR_KEEP_RUNS=none" in text


WORKERS_OWN = {
    RunContext: {"closed", "saved", "close", "services", "tracked"},
    RunRequest: {"of", "kwargs"},
    RunRecord: {
        "take",
        "abort_event",
        "abort_action",
        "abort_cause",
        "abort_reason",
        "abort_actor",
        "store_only",
        "already_admitted",
        "task",
        "task_active",
    },
    Abort: set[str](),
}
"""What is public in a class and no part of what an agent gets."""


def members(kind: type) -> set[str]:
    assigned = {"input", "user"} if kind is RunContext else set[str]()
    public = {name for name in vars(kind) if not name.startswith("_")}
    return ({field.name for field in dataclasses.fields(kind)} | public | assigned) - WORKERS_OWN[kind]


@pytest.mark.parametrize(
    ("prefix", "kind"),
    [("ctx", RunContext), ("ctx.request", RunRequest), ("ctx.run", RunRecord), ("ctx.abort", Abort)],
)
def test_guide_to_assistants_lists_what_an_agent_gets(prefix: str, kind: type) -> None:
    cells = re.findall(r"^\| (`(?:await )?ctx.*?) \|", (GUIDES / "assistants.md").read_text(), re.MULTILINE)
    named = re.findall(rf"`(?:await )?{re.escape(prefix)}\.(\w+)(?:\([^`]*\))?`", " ".join(cells))
    assert sorted(named) == sorted(members(kind))


def test_guide_to_operations_lists_every_field_of_health() -> None:
    _, _, table = (GUIDES / "operations.md").read_text().partition("| field | meaning |\n")
    cells = re.findall(r"^\|([^|]+)\|", table.partition("\n\n")[0], re.MULTILINE)
    named = re.findall(r"`(\w+)`", " ".join(cells))
    assert sorted(named) == sorted(field.name for field in dataclasses.fields(Health))
