"""Renders each event as a sentence for an operator. WARNING and above: an operator may have to act."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from coordinator.telemetry.events import (
    ChangeDelivered,
    ChangeFailed,
    ConnectivityChanged,
    Event,
    PeerBuried,
    RunAborted,
    RunAdmitted,
    RunContinued,
    RunForced,
    RunHandedOver,
    RunLost,
    RunRecovered,
    RunRefused,
    RunSettled,
    RunStarted,
    RunStopped,
    WebhookDelivered,
    WebhookFailed,
    WorkerFenced,
    WorkerRegistered,
)

_CONNECTIVITY = {
    "connected": "hints from other workers arrive: cancels between workers are delivered at once",
    "suspected": "hints from other workers do not arrive: the connection is being replaced; meanwhile the"
    " store is polled, and a cancel from another worker is delivered after one short tick at most",
    "down": "hints from other workers do not arrive, because their transport is down: runs continue, the"
    " store is polled, and a cancel from another worker is delivered after one short tick at most. The"
    " connection is retried until it succeeds",
    "connecting": "connecting to the transport of hints",
    "off": "no transport of hints is configured",
}
_TROUBLE = frozenset({"suspected", "down"})


def level_of(event: Event) -> int:
    """Returns a level of the standard library's `logging`."""
    if isinstance(event, ConnectivityChanged):
        if event.connectivity in _TROUBLE:
            return logging.WARNING
        return logging.INFO if event.connectivity == "connected" else logging.DEBUG
    return _LEVELS.get(event.__class__, logging.DEBUG)


def sentence_of(event: Event) -> str:
    """Returns the sentence of an event. Ids and texts are escaped with repr, so that they cannot forge a
    line."""
    render = _SENTENCES.get(type(event))
    return repr(event) if render is None else render(event)


_LEVELS: dict[type[Event], int] = {
    RunForced: logging.ERROR,
    WorkerFenced: logging.ERROR,
    RunLost: logging.WARNING,
    RunRecovered: logging.WARNING,
    RunContinued: logging.INFO,
    RunHandedOver: logging.INFO,
    RunStopped: logging.INFO,
    PeerBuried: logging.WARNING,
    WebhookFailed: logging.WARNING,
}


def _run(event: Any) -> str:  # Any: each event of a run has these fields
    return f"run {event.run_id!r} on thread {event.thread_id!r}"


def _settled(event: RunSettled) -> str:
    return f"{_run(event)} ended: {event.status}" + (f", {event.error!r}" if event.error is not None else "")


def _aborted(event: RunAborted) -> str:
    by = "" if event.actor is None else f" by {event.actor!r}"
    why = "" if event.reason is None else f", {event.reason!r}"
    return f"{_run(event)} received its cancel: {event.status}, cause {event.cause}{by}{why}"


def _refused(event: RunRefused) -> str:
    return f"an admission on thread {event.thread_id!r} was refused: run {event.active_run_id!r} is in flight"


def _forced(event: RunForced) -> str:
    return (
        f"run {event.run_id!r} of assistant {event.assistant_id!r} on thread {event.thread_id!r} ignored its"
        f" cancel for {event.after:g} s: its thread was freed and its writes are refused, but its task may"
        " still execute and occupies its place of this worker until it ends. Its code has to end at"
        " CancelledError;"
        f" a restart of this worker ends it. Its stack: {event.stack!r}"
    )


def _recovered(event: RunRecovered) -> str:
    owner = (
        "it had no worker" if event.dead_epoch is None else f"its worker (epoch {event.dead_epoch}) is dead"
    )
    return f"{_run(event)} ended as {event.status}: {owner}"


def _peer_dead(event: PeerBuried) -> str:
    runs = "1 of its runs was ended" if event.ended == 1 else f"{event.ended} of its runs were ended"
    continued = f", {event.continued} continued by this worker" if event.continued else ""
    return f"{event.worker or f'worker epoch {event.epoch}'} is dead and fenced: {runs}{continued}"


def _change_delivered(event: ChangeDelivered) -> str:
    return f"projection {event.projection!r} has applied {event.changes} changes of runs"


def _change_failed(event: ChangeFailed) -> str:
    return (
        f"projection {event.projection!r} could not apply change {event.seq} of run {event.run_id!r} (attempt"
        f" {event.attempt}, the next in {event.retry_in:.1f} s; later changes of the thread wait):"
        f" {event.error!r}"
    )


def _webhook_failed(event: WebhookFailed) -> str:
    then = (
        "that was its last attempt, the receiver is not notified"
        if event.retry_in is None
        else f"the next attempt follows in {event.retry_in:.0f} s"
    )
    attempt = f"attempt {event.attempt} to deliver the webhook of run {event.run_id!r}"
    return f"{attempt} failed, {event.error!r}: {then}"


def _fenced(event: WorkerFenced) -> str:
    return (
        f"this worker (epoch {event.epoch}) is fenced, because {event.why}: its runs are stopped, their"
        " writes are refused, and it registers with a new epoch"
    )


def _connectivity(event: ConnectivityChanged) -> str:
    return _CONNECTIVITY.get(event.connectivity, f"connectivity is {event.connectivity!r}")


_SENTENCES: dict[type[Event], Callable[[Any], str]] = {  # Any: each takes the event of its key
    RunAdmitted: lambda event: f"{_run(event)} was admitted" + ("" if event.holds else " and waits"),
    RunStarted: lambda event: f"{_run(event)} of assistant {event.assistant_id!r} started",
    RunSettled: _settled,
    RunAborted: _aborted,
    RunRefused: _refused,
    RunForced: _forced,
    RunStopped: lambda event: f"{_run(event)} has stopped, {event.after:.1f} s after it was to stop",
    RunLost: lambda event: f"{_run(event)} is lost to this worker, {event.why}: its task is stopped",
    RunHandedOver: lambda event: f"{_run(event)} has stopped in attempt {event.attempt} and is handed over",
    RunContinued: lambda event: f"{_run(event)} is continued by this worker, in attempt {event.attempt}",
    RunRecovered: _recovered,
    PeerBuried: _peer_dead,
    WebhookDelivered: lambda event: f"the webhook of run {event.run_id!r} was delivered",
    WebhookFailed: _webhook_failed,
    ChangeDelivered: _change_delivered,
    ChangeFailed: _change_failed,
    WorkerRegistered: lambda event: f"this worker is registered as epoch {event.epoch}",
    WorkerFenced: _fenced,
    ConnectivityChanged: _connectivity,
}
