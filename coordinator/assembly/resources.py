"""Builds the attributes of a manager that users call."""

from __future__ import annotations

from coordinator.assembly.whole import Assembly
from coordinator.resources.client_assistants import ClientAssistants
from coordinator.resources.crons import Crons
from coordinator.resources.projections import Projections
from coordinator.resources.runs import Runs
from coordinator.resources.streams import Streams
from coordinator.resources.threads import Threads
from coordinator.resources.webhooks import Webhooks
from coordinator.resources.worker import ThisWorker
from coordinator.runs.specs import SpecFactory


def threads_of(parts: Assembly) -> Threads:
    shared = parts.shared
    return Threads(
        shared.store,
        home=shared.home,
        operations=parts.runs.operations,
        assistants=shared.assistants,
        expiry=parts.expiry,
        notifier=shared.notifier,
    )


def runs_of(parts: Assembly) -> Runs:
    shared = parts.shared
    return Runs(
        shared.store,
        home=shared.home,
        registry=shared.registry,
        event_log=shared.event_log,
        cancellations=parts.runs.cancellations,
        extras=parts.runs.extras,
    )


def client_assistants_of(parts: Assembly) -> ClientAssistants:
    return ClientAssistants(parts.shared.store, home=parts.shared.home)


def crons_of(parts: Assembly) -> Crons:
    shared = parts.shared
    return Crons(shared.store, home=shared.home, assistants=shared.assistants)


def webhooks_of(parts: Assembly) -> Webhooks:
    shared = parts.shared
    return Webhooks(shared.store, home=shared.home, worker=shared.worker, telemetry=shared.telemetry)


def streams_of(parts: Assembly) -> Streams:
    shared = parts.shared
    return Streams(
        shared.registry,
        parts.runs.readers,
        shared.events,
        home=shared.home,
        worker=shared.worker,
        telemetry=shared.telemetry,
    )


def projections_of(parts: Assembly) -> Projections:
    return Projections(parts.projector, home=parts.shared.home)


def worker_of(parts: Assembly) -> ThisWorker:
    shared = parts.shared
    return ThisWorker(
        shared.store,
        shared.settings,
        home=shared.home,
        worker=shared.worker,
        drain=parts.drain,
        settlement=parts.runs.settlement,
        outbox=shared.outbox,
        notifier=shared.notifier,
        pacemaker=parts.pacemaker,
        examination=parts.examination,
        capacity=parts.runs.capacity,
        telemetry=shared.telemetry,
    )


def specs_of(parts: Assembly, webhooks: Webhooks) -> SpecFactory:
    return SpecFactory(
        parts.shared.settings, temporary_ms=parts.expiry.temporary_ms, check_webhook=webhooks.checked
    )
