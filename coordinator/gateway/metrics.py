"""Metrics for Prometheus. Each label has few values: templates of routes and never paths; no ids, no users.

Several workers behind one port share a folder (`shared_counts`), so that each of them exposes the metrics of
all: counters are summed, gauges have a label with the process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from coordinator.gateway.long_lived_responses import Watchers
from coordinator.gateway.middleware.envelope import Exchange, Observed
from coordinator.gateway.middleware.sockets import SocketOpened
from coordinator.gateway.shared_counts import VARIABLE
from coordinator.notifier import Connectivity
from coordinator.resources.worker import ThisWorker
from coordinator.telemetry import Event
from coordinator.telemetry.events import (
    ChangeDelivered,
    ChangeFailed,
    PeerBuried,
    RunAdmitted,
    RunContinued,
    RunEmitted,
    RunForced,
    RunHandedOver,
    RunLost,
    RunRecovered,
    RunRefused,
    RunSettled,
    RunStarted,
    WebhookDelivered,
    WebhookFailed,
    WorkerFenced,
)
from stores.rows import WorkerRow
from stores.states import WorkerState

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

REFRESH = 5.0
"""Seconds. Maximal age of a worker's gauges when another worker exposes them."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

_CLOSE_CODES = frozenset({1000, 1001, 1003, 1005, 1006, 1007, 1009, 1011, 1012, 4401, 4404})
"""Close codes with a value of their own: clients may send any of 3,000 others."""

_WORKER_GAUGES = {
    "ready": "1 = the worker accepts new runs",
    "epoch": "The worker's epoch",
    "lease_seconds": "Time until the worker's lease expires; infinite if no other worker can use the store",
    "loop_lag_seconds": "Latency of the event loop",
    "loop_stalled_seconds": "How long the event loop has been blocked by now; 0 while it runs",
    "tick_age_seconds": "Time since the worker last polled the store",
    "hints_connected": "1 = hints are delivered; 0 = the store is polled instead",
    "redis_connected": "1 = hints are delivered by Redis; 0 also without Redis",
    "owed_writes": "Writes that wait for the store",
    "waiting_for_place": "Runs that hold their thread and wait until the worker may execute them",
    "open_answers": "Open streams, WebSockets and long responses",
    "open_sockets": "Open WebSockets",
    "thread_jobs": "Thread jobs that run or wait for a thread",
    "outliving_thread_jobs": "Thread jobs whose run has ended",
    "overdue_runs": "Runs that were force-settled and whose work still executes",
    "unreadable_rows": "Rows of the store that the worker could not read and left out of lists",
}
_EVENT_COUNTERS: dict[type[Event], tuple[str, str]] = {
    RunRefused: ("runs_refused", "Admissions refused because the thread was busy"),
    RunStarted: ("runs_started", "Runs started"),
    RunForced: ("runs_forced", "Runs that did not stop in time and were force-settled"),
    RunLost: ("runs_lost", "Runs taken over by another worker"),
    RunContinued: ("runs_continued", "Runs of dead or draining workers continued here"),
    RunHandedOver: ("runs_handed_over", "Runs handed over by this worker's drain"),
    RunRecovered: ("runs_recovered", "Runs of dead workers that were ended; runs_settled counts them, too"),
    RunEmitted: ("events_emitted", "Events emitted by runs"),
    WorkerFenced: ("worker_fenced", "Times that a worker lost its lease"),
    PeerBuried: ("peers_buried", "Workers declared dead"),
}


class Metrics:
    """The metrics of one gateway. `of_run` is a telemetry hook; `of_request` is called for each
    request, and for each WebSocket when it opens and when it is closed."""

    def __init__(self, worker: ThisWorker, watchers: Watchers) -> None:
        self._worker, self._watchers = worker, watchers
        self._registry = CollectorRegistry()
        self._shared = VARIABLE in os.environ
        if self._shared and values.ValueClass is values.MutexValue:  # imported before the folder was set
            values.ValueClass = values.get_value_class()
        self._requests = self._counter("http_requests", "Requests", "method", "route", "status")
        self._seconds = Histogram(
            "coordinator_http_request_seconds",
            "Time until the response began; a stream continues after that",
            ["method", "route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._closed_sockets = self._counter(
            "sockets_closed", "WebSockets that were closed, by either side", "route", "code"
        )
        self._open_sockets = 0
        self._admitted = self._counter("runs_admitted", "Runs admitted", "strategy")
        self._settled = self._counter(
            "runs_settled", "Runs that have ended, also those of dead workers", "status"
        )
        self._webhooks = self._counter("webhooks", "Attempts to deliver a webhook", "outcome")
        self._changes = self._counter(
            "projected_changes", "Changes of runs that were passed to a projection", "projection", "outcome"
        )
        self._event_counters = {kind: self._counter(*named) for kind, named in _EVENT_COUNTERS.items()}
        self._worker_gauges = {name: self._gauge(name, text) for name, text in _WORKER_GAUGES.items()}
        # `labels` takes 3 us. The values are few, see above.
        self._of_request = cache(self._children_of_request)
        self._with_label = cache(Counter.labels)
        self._stalled = False
        worker.observe_stalls(self._of_stall)

    def _of_stall(self, stalled_for: float) -> None:
        """Called from a thread. While the event loop is blocked, this process serves no requests, and other
        workers expose its last values. `refresh` sets `ready` again."""
        if stalled_for or self._stalled:
            self._stalled = stalled_for > 0
            self._worker_gauges["loop_stalled_seconds"].set(stalled_for)
        if stalled_for:
            self._worker_gauges["ready"].set(0)

    def _gauge(self, name: str, description: str) -> Gauge:
        return Gauge(
            f"coordinator_worker_{name}", description, registry=self._registry, multiprocess_mode="liveall"
        )

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"coordinator_{name}", description, labels, registry=self._registry)

    def of_request(self, observed: Observed) -> None:
        if isinstance(observed, Exchange):
            requests, seconds = self._of_request(observed.method, observed.route, observed.status)
            requests.inc()
            seconds.observe(observed.seconds_to_response)
        elif isinstance(observed, SocketOpened):
            self._open_sockets += 1
        else:
            self._open_sockets -= 1
            code = "other" if observed.code not in _CLOSE_CODES else str(observed.code)
            self._closed_sockets.labels(observed.route, code).inc()

    def _children_of_request(self, method: str, route: str, status: int | None) -> tuple[Counter, Histogram]:
        shown = "gone" if status is None else str(status)
        return self._requests.labels(method, route, shown), self._seconds.labels(method, route)

    def of_run(self, event: Event) -> None:
        if isinstance(event, RunAdmitted):
            self._with_label(self._admitted, event.strategy).inc()
        elif isinstance(event, (RunSettled, RunRecovered)):
            self._with_label(self._settled, event.status).inc()
            if isinstance(event, RunRecovered):
                self._event_counters[RunRecovered].inc()
        elif isinstance(event, WebhookDelivered):
            self._webhooks.labels("delivered").inc()
        elif isinstance(event, WebhookFailed):
            self._webhooks.labels("given_up" if event.retry_in is None else "failed").inc()
        elif isinstance(event, ChangeDelivered):
            self._changes.labels(event.projection, "delivered").inc(event.changes)
        elif isinstance(event, ChangeFailed):
            self._changes.labels(event.projection, "failed").inc()
        elif (counter := self._event_counters.get(type(event))) is not None:
            counter.inc()

    async def refresh(self) -> None:
        health = await self._worker.health()
        infinite, not_a_number = float("inf"), float("nan")
        measured = {
            "ready": health.ready,
            "epoch": health.epoch,
            "lease_seconds": infinite if health.lease_remaining is None else health.lease_remaining,
            "loop_lag_seconds": not_a_number if health.loop_lag is None else health.loop_lag,
            "loop_stalled_seconds": self._worker.stalled_for,
            "tick_age_seconds": not_a_number if health.ticked_ago is None else health.ticked_ago,
            "hints_connected": health.connectivity is Connectivity.connected,
            "redis_connected": health.redis is Connectivity.connected,
            "owed_writes": self._worker.pending_writes,
            "waiting_for_place": self._worker.waiting_for_place,
            "open_answers": self._watchers.open,
            "open_sockets": self._open_sockets,
            "thread_jobs": not_a_number if health.thread_jobs is None else health.thread_jobs,
            "outliving_thread_jobs": len(health.outliving),
            "overdue_runs": len(health.overdue),
            "unreadable_rows": health.unreadable_rows,
        }
        for name, gauge in self._worker_gauges.items():
            gauge.set(measured[name])

    async def keep_refreshed(self) -> None:
        """Refreshes the gauges for ever if other workers expose them; else returns at once."""
        while self._shared:
            await self.refresh()
            await asyncio.sleep(REFRESH)

    async def exposition(self) -> bytes:
        """Returns all metrics in the format CONTENT_TYPE. Raises StoreError."""
        await self.refresh()
        workers = await self._worker.fleet()
        registry = CollectorRegistry()
        if self._shared:
            folder = Path(os.environ[VARIABLE])
            _remove_gauges_of_dead(folder)
            registry.register(_FunctionCollector(lambda: _read_files(folder)))
        else:
            registry.register(_FunctionCollector(self._registry.collect))
        registry.register(_FunctionCollector(lambda: _deployment_metrics(workers)))
        return await asyncio.to_thread(generate_latest, registry)


class _FunctionCollector(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


def _read_files(folder: Path) -> Iterable[Metric]:
    """Merges the files of all workers, including dead ones. A worker that is killed between creating a file
    and writing to it leaves an empty file, which is skipped."""
    merge = cast("Callable[[list[str]], Iterable[Metric]]", MultiProcessCollector.merge)  # pyright: ignore[reportUnknownMemberType] - its stub is partially unknown
    return merge([str(file) for file in folder.glob("*.db") if _has_counts(file)])


def _has_counts(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False


def _deployment_metrics(workers: list[WorkerRow]) -> Iterable[Metric]:
    """Returns metrics of the whole deployment from the store, which are the same at each worker."""
    states = GaugeMetricFamily("coordinator_workers", "Workers of the deployment", labels=["state"])
    for state in (WorkerState.live, WorkerState.draining):
        states.add_metric([state.value], sum(worker.state is state for worker in workers))
    states.add_metric(["expired"], sum(worker.expired for worker in workers))
    held = sum(worker.holding for worker in workers)
    return states, GaugeMetricFamily("coordinator_threads_held", "Threads that a run holds", value=held)


def _remove_gauges_of_dead(folder: Path) -> None:
    """Removes the gauges of dead processes. Their counters stay, because sums must not decrease."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdigit() and not _process_exists(int(pid)):
            file.unlink(missing_ok=True)  # another worker may remove it concurrently


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
