"""A share of `make differential`, the same in every run."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from stores.assistants import AssistantStore
from stores.base import (
    AdmissionStore,
    DecisionStore,
    OwnershipStore,
    ReadStore,
    RecordStore,
    ValuesStore,
    WorkerStore,
)
from stores.catalogue import CatalogueStore
from stores.crons import CronStore
from stores.memory import MemoryStore
from stores.pruning import PruningStore
from stores.thread_states import ThreadStatesStore
from stores.webhooks import WebhookStore
from tests.differential.campaign import compare
from tests.support.postgres import Database

PORTS: tuple[type, ...] = (
    AdmissionStore,
    AssistantStore,
    CatalogueStore,
    CronStore,
    DecisionStore,
    OwnershipStore,
    PruningStore,
    ReadStore,
    RecordStore,
    ThreadStatesStore,
    ValuesStore,
    WebhookStore,
    WorkerStore,
)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("untraced")
async def test_stores_answer_every_call_alike(shared_postgres: Database) -> None:
    report = await compare(shared_postgres, range(36), steps=80)
    assert not report.failures, "\n".join(what for _, what in report.failures.values())
    calls = {name for port in PORTS for name, _ in inspect.getmembers(port, inspect.iscoroutinefunction)}
    assert calls - set(report.called) == set(), "calls of the port that no sequence makes"


async def test_an_order_that_one_store_leaves_open_is_found(
    shared_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = MemoryStore.runs

    async def reversed_list(self: MemoryStore, **query: Any) -> Any:
        return (await runs(self, **query))[::-1]

    monkeypatch.setattr(MemoryStore, "runs", reversed_list)
    report = await compare(shared_postgres, range(60), steps=80, until_first=True)
    assert [what[:4] for _, what in report.failures.values()] == ["runs"]


async def test_a_row_that_one_store_writes_differently_is_found(
    shared_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forgotten(self: MemoryStore, run_id: str, model_name: str | None) -> bool:
        """Answers as if it had written."""
        return await self.get(run_id) is not None

    monkeypatch.setattr(MemoryStore, "update_model_name", forgotten)
    report = await compare(shared_postgres, range(60), steps=80, until_first=True)
    assert report.failures, "neither a read nor the tables at the end show it"
