"""What every run store must do: the promises of `conformance.STORE`, and the details that are not in
the kit. Enter by subclassing `StoreConformance` and giving it a `store`.

    class TestMyStore(StoreConformance):
        @pytest.fixture
        async def store(self, clock): ...

`clock` is the store's clock; an adapter that brings its own declares it by overriding `clock`.
"""

from __future__ import annotations

import pytest

from coordinator.testing import conformance
from coordinator.testing.conformance import Check, StoreCase, StoreClock
from stores.base import CoordinationStore
from tests.conformance.run_store.admission import Admissions
from tests.conformance.run_store.assistants import Assistants
from tests.conformance.run_store.catalogue import ExistingThreads, History, Threads
from tests.conformance.run_store.checkpoints import Checkpoints
from tests.conformance.run_store.crons import Crons
from tests.conformance.run_store.delays import Delays
from tests.conformance.run_store.dispatch import Dispatch
from tests.conformance.run_store.event_logs import EventLogs
from tests.conformance.run_store.expiry import Expiry
from tests.conformance.run_store.finding import Finding
from tests.conformance.run_store.limits import Children, Draining, TimeLimits
from tests.conformance.run_store.lines import WaitingLines
from tests.conformance.run_store.newer import NewerValues
from tests.conformance.run_store.ownership import Owners
from tests.conformance.run_store.projections import Projections
from tests.conformance.run_store.pruning import Pruning
from tests.conformance.run_store.records import Records
from tests.conformance.run_store.reports import Reports
from tests.conformance.run_store.rollbacks import Rollbacks
from tests.conformance.run_store.starts import Starts
from tests.conformance.run_store.webhooks import Webhooks
from tests.conformance.run_store.workers import Workers


class StoreConformance(
    Admissions,
    WaitingLines,
    Starts,
    Delays,
    Owners,
    Rollbacks,
    Workers,
    Records,
    NewerValues,
    Reports,
    Pruning,
    TimeLimits,
    Draining,
    Children,
    Threads,
    ExistingThreads,
    History,
    Finding,
    Expiry,
    EventLogs,
    Webhooks,
    Dispatch,
    Projections,
    Crons,
    Assistants,
    Checkpoints,
):
    """The whole suite, for one adapter: the promises of the kit, and what only this repository checks."""

    @pytest.mark.parametrize("check", conformance.STORE, ids=str)
    async def test_keeps_its_promise(
        self, store: CoordinationStore, clock: StoreClock, check: Check[StoreCase]
    ) -> None:
        await check(StoreCase(store, clock))
