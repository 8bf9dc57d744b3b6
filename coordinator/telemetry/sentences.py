"""Each event as a sentence for an operator, at WARNING or above where an operator may have to act."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from coordinator.telemetry.events import (
    ConnectivityChanged,
    Event,
    PeerBuried,
    RunAborted,
    RunAdmitted,
    RunForced,
    RunLost,
    RunRecovered,
    RunRefused,
    RunSettled,
    RunStarted,
    WebhookDelivered,
    WebhookFailed,
    WorkerFenced,
    WorkerRegistered,
)

_CONNECTIVITY = {
    "connected": "hints from other workers arrive: cancels between workers are immediate",
    "suspected": "hints from other workers do not arrive: the connection is replaced, and the store is polled"
    " meanwhile, so a cancel from another worker takes up to the short tick",
    "down": "hints from other workers do not arrive, for their transport is down: runs go on, the store is"
    " polled, and a cancel from another worker takes up to the short tick. It is tried again all the while",
    "connecting": "connecting to the transport of hints",
    "off": "no transport of hints is configured",
}
_TROUBLE = frozenset({"suspected", "down"})


def level_of(event: Event) -> int:
    """As the standard library's `logging` has them."""
    if isinstance(event, ConnectivityChanged):
        if event.connectivity in _TROUBLE:
            return logging.WARNING
        return logging.INFO if event.connectivity == "connected" else logging.DEBUG
    return _LEVELS.get(event.__class__, logging.DEBUG)


def sentence_of(event: Event) -> str:
    """Ids and texts are written with repr, so that none can forge a line."""
    write = _SENTENCES.get(type(event))
    return repr(event) if write is None else write(event)


_LEVELS: dict[type[Event], int] = {
    RunForced: logging.ERROR,
    WorkerFenced: logging.ERROR,
    RunLost: logging.WARNING,
    RunRecovered: logging.WARNING,
    PeerBuried: logging.WARNING,
    WebhookFailed: logging.WARNING,
}


def _run(event: Any) -> str:
    return f"run {event.run_id!r} on thread {event.thread_id!r}"


def _settled(event: RunSettled) -> str:
    return f"{_run(event)} ended: {event.status}" + (f", {event.error!r}" if event.error is not None else "")


def _aborted(event: RunAborted) -> str:
    by = "" if event.actor is None else f" by {event.actor!r}"
    why = "" if event.reason is None else f", {event.reason!r}"
    return f"{_run(event)} is cancelled here: {event.status}, cause {event.cause}{by}{why}"


def _refused(event: RunRefused) -> str:
    return f"an admission on thread {event.thread_id!r} was refused: run {event.active_run_id!r} is in flight"


def _forced(event: RunForced) -> str:
    return (
        f"{_run(event)} ignored its cancel for {event.after:g} s: its thread is free and its writes are"
        f" refused, but its task may still be at work. Its stack: {event.stack!r}"
    )


def _recovered(event: RunRecovered) -> str:
    owner = (
        "it had no worker" if event.dead_epoch is None else f"its worker (epoch {event.dead_epoch}) is dead"
    )
    return f"{_run(event)} ended as {event.status}: {owner}"


def _buried(event: PeerBuried) -> str:
    runs = "1 run of it was ended" if event.ended == 1 else f"{event.ended} runs of it were ended"
    return f"{event.worker or f'worker epoch {event.epoch}'} is dead: {runs}"


def _webhook_failed(event: WebhookFailed) -> str:
    then = "it is given up" if event.retry_in is None else f"it is tried again in {event.retry_in:.0f} s"
    return f"attempt {event.attempt} at the webhook of run {event.run_id!r} failed, {event.error!r}; {then}"


def _fenced(event: WorkerFenced) -> str:
    return (
        f"this worker (epoch {event.epoch}) may not act any more, {event.why}: its runs are stopped here and"
        " it registers anew"
    )


def _connectivity(event: ConnectivityChanged) -> str:
    return _CONNECTIVITY.get(event.connectivity, f"connectivity is {event.connectivity!r}")


_SENTENCES: dict[type[Event], Callable[[Any], str]] = {
    RunAdmitted: lambda event: f"{_run(event)} was admitted" + ("" if event.holds else " and waits"),
    RunStarted: lambda event: f"{_run(event)} of assistant {event.assistant_id!r} started",
    RunSettled: _settled,
    RunAborted: _aborted,
    RunRefused: _refused,
    RunForced: _forced,
    RunLost: lambda event: f"{_run(event)} is no longer this worker's, {event.why}: its task is stopped",
    RunRecovered: _recovered,
    PeerBuried: _buried,
    WebhookDelivered: lambda event: f"the webhook of run {event.run_id!r} was delivered",
    WebhookFailed: _webhook_failed,
    WorkerRegistered: lambda event: f"this worker is registered as epoch {event.epoch}",
    WorkerFenced: _fenced,
    ConnectivityChanged: _connectivity,
}
