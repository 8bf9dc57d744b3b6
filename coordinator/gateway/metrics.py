"""What Prometheus is told. Labels have few values each: templates of routes, never paths; no ids, no users.

Several workers behind one port share a folder (`shared_counts`), so that any of them answers
for all: what was counted is added up, what is measured carries its process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from coordinator.gateway.held import Watchers
from coordinator.gateway.middleware.envelope import Exchange
from coordinator.gateway.shared_counts import VARIABLE
from coordinator.manager import RunManager
from coordinator.notifier import Connectivity
from coordinator.telemetry import Event
from coordinator.telemetry.events import (
    PeerBuried,
    RunAdmitted,
    RunEmitted,
    RunForced,
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
"""Seconds. How old what a worker tells of itself may be where another one is asked."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

_OF_WORKER = {
    "ready": "1 = may be sent new runs",
    "epoch": "The worker's epoch",
    "lease_seconds": "Until its lease ends unless it is renewed; infinite where nobody else uses the store",
    "loop_lag_seconds": "How late the event loop turns",
    "loop_stalled_seconds": "How long the event loop has been standing still by now; 0 while it turns",
    "tick_age_seconds": "Since it last looked for what no signal told it",
    "redis_connected": "1 = signals travel; 0 = the store is asked instead",
    "owed_writes": "Writes that wait for the store",
    "open_answers": "Streams and long answers that are open",
    "thread_jobs": "Jobs that are at work in threads, or wait for one",
    "outliving_thread_jobs": "Those of them whose run is over",
    "unreadable_rows": "Rows of the store that it could not read, and left out of lists",
}


class Metrics:
    """One for each gateway. `of_run` is a telemetry hook, `of_request` is called for each request."""

    def __init__(self, manager: RunManager, watchers: Watchers) -> None:
        self._manager, self._watchers = manager, watchers
        self._registry = CollectorRegistry()
        self._shared = VARIABLE in os.environ
        if self._shared and values.ValueClass is values.MutexValue:  # imported before the folder was named
            values.ValueClass = values.get_value_class()
        self._requests = self._counter("http_requests", "Requests", "method", "route", "status")
        self._seconds = Histogram(
            "coordinator_http_request_seconds",
            "Until the answer began; a stream goes on after that",
            ["method", "route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._admitted = self._counter("runs_admitted", "Runs admitted", "strategy")
        self._settled = self._counter("runs_settled", "Runs that gave their thread back", "status")
        self._webhooks = self._counter("webhooks", "Attempts to deliver a webhook", "outcome")
        self._counted: dict[type[Event], Counter] = {
            RunRefused: self._counter("runs_refused", "Admissions refused, the thread being busy"),
            RunStarted: self._counter("runs_started", "Runs started"),
            RunForced: self._counter("runs_forced", "Runs that did not stop and were settled by force"),
            RunLost: self._counter("runs_lost", "Runs taken over by another worker"),
            RunRecovered: self._counter("runs_recovered", "Runs of dead workers ended by a sweep"),
            RunEmitted: self._counter("events_emitted", "Events emitted by runs"),
            WorkerFenced: self._counter("worker_fenced", "Times that a worker lost its lease"),
            PeerBuried: self._counter("peers_buried", "Dead workers buried"),
        }
        self._of_worker = {
            name: Gauge(
                f"coordinator_worker_{name}", about, registry=self._registry, multiprocess_mode="liveall"
            )
            for name, about in _OF_WORKER.items()
        }

        self._stalled = False
        manager.observe_stalls(self._of_stall)

    def _of_stall(self, stalled_for: float) -> None:
        """From a thread: while the loop stands, this process answers nobody, and others show what it said
        last. `refresh` says when it is ready again."""
        if stalled_for or self._stalled:
            self._stalled = stalled_for > 0
            self._of_worker["loop_stalled_seconds"].set(stalled_for)
        if stalled_for:
            self._of_worker["ready"].set(0)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"coordinator_{name}", about, labels, registry=self._registry)

    def of_request(self, exchange: Exchange) -> None:
        status = "gone" if exchange.status is None else str(exchange.status)
        self._requests.labels(exchange.method, exchange.route, status).inc()
        self._seconds.labels(exchange.method, exchange.route).observe(exchange.answered)

    def of_run(self, event: Event) -> None:
        if isinstance(event, RunAdmitted):
            self._admitted.labels(event.strategy).inc()
        elif isinstance(event, RunSettled):
            self._settled.labels(event.status).inc()
        elif isinstance(event, WebhookDelivered):
            self._webhooks.labels("delivered").inc()
        elif isinstance(event, WebhookFailed):
            self._webhooks.labels("given_up" if event.retry_in is None else "failed").inc()
        elif (counter := self._counted.get(type(event))) is not None:
            counter.inc()

    async def refresh(self) -> None:
        health = await self._manager.health()
        forever, never = float("inf"), float("nan")
        told = {
            "ready": health.ready,
            "epoch": health.epoch,
            "lease_seconds": forever if health.lease_remaining is None else health.lease_remaining,
            "loop_lag_seconds": never if health.loop_lag is None else health.loop_lag,
            "loop_stalled_seconds": self._manager.stalled_for,
            "tick_age_seconds": never if health.ticked_ago is None else health.ticked_ago,
            "redis_connected": health.connectivity is Connectivity.connected,
            "owed_writes": self._manager.owed,
            "open_answers": self._watchers.open,
            "thread_jobs": never if health.thread_jobs is None else health.thread_jobs,
            "outliving_thread_jobs": len(health.outliving),
            "unreadable_rows": health.unreadable_rows,
        }
        for name, gauge in self._of_worker.items():
            gauge.set(told[name])

    async def keep_fresh(self) -> None:
        """For ever, where other workers answer for this one."""
        while self._shared:
            await self.refresh()
            await asyncio.sleep(REFRESH)

    async def exposition(self) -> bytes:
        """All of it, as CONTENT_TYPE. Raises StoreError."""
        await self.refresh()
        workers = await self._manager.workers()
        registry = CollectorRegistry()
        if self._shared:
            folder = Path(os.environ[VARIABLE])
            _forget_the_dead(folder)
            registry.register(_Collected(lambda: _of_files(folder)))
        else:
            registry.register(_Collected(self._registry.collect))
        registry.register(_Collected(lambda: _of_all(workers)))
        return await asyncio.to_thread(generate_latest, registry)


class _Collected(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


def _of_files(folder: Path) -> Iterable[Metric]:
    """The sum over all workers, dead ones too. A worker makes each of its files empty and writes into it a
    moment later; killed in between, it leaves an empty one for good."""
    merge = cast("Callable[[list[str]], Iterable[Metric]]", MultiProcessCollector.merge)  # pyright: ignore[reportUnknownMemberType]
    return merge([str(file) for file in folder.glob("*.db") if _has_counts(file)])


def _has_counts(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False


def _of_all(workers: list[WorkerRow]) -> Iterable[Metric]:
    """Of the whole deployment, from the store: the same whichever worker is asked."""
    states = GaugeMetricFamily("coordinator_workers", "Workers of the deployment", labels=["state"])
    for state in (WorkerState.live, WorkerState.draining):
        states.add_metric([state.value], sum(worker.state is state for worker in workers))
    states.add_metric(["expired"], sum(worker.expired for worker in workers))
    held = sum(worker.holding for worker in workers)
    return states, GaugeMetricFamily("coordinator_threads_held", "Threads on which a run is", value=held)


def _forget_the_dead(folder: Path) -> None:
    """What a process told of itself ends with it; what it counted stays, or sums would go back."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdigit() and not _runs(int(pid)):
            file.unlink(missing_ok=True)  # another worker may be asked at this moment too


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
