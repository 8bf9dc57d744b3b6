"""The notifier port: lossy signals between workers.

A signal is a hint and never a fact. It may be lost, late, repeated or forged, so its receiver only
re-reads the row it names (law 2, "intent before signal"). Adapters: `notifiers.local` for one
process or for several that share only the store, `notifiers.redis` for workers that share a Redis.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

MAX_MESSAGE_BYTES = 1024


class Connectivity(StrEnum):
    """How well signals travel at this moment. Shown in health; it changes speed, never answers."""

    off = "off"  # no transport configured: store-only mode
    connecting = "connecting"
    connected = "connected"
    suspected = "suspected"  # the canary was not seen in time; the connection is being replaced
    down = "down"


class Signal(BaseModel):
    """What travels. `cancel`: a run of yours was decided. `claim`: a thread you wait for may be free.

    `settled`: a run ended and its thread was freed (sent on the thread's channel, wakes waiters).
    Ids are absent when they would not fit in `MAX_MESSAGE_BYTES`: the receiver then re-reads
    everything of its own. Unknown fields are ignored: a later version may send more.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    kind: Literal["cancel", "claim", "settled"]
    thread_id: str | None = Field(default=None, max_length=255)
    run_id: str | None = Field(default=None, max_length=255)


@runtime_checkable
class Explaining(Protocol):
    """A notifier or an event log that can say why it is away."""

    @property
    def trouble(self) -> str | None:
        """For people; None = it is not away."""
        ...


class Wakeup(Protocol):
    """A level-triggered wake-up handed out by `Notifier.watch`."""

    async def wait(self, timeout: float) -> bool:
        """Return True as soon as something happened since the last call, False after `timeout` s."""
        ...


class Notifier(Protocol):
    """Spreads hints. No method ever raises because the transport is away."""

    @property
    def connectivity(self) -> Connectivity: ...

    async def start(
        self,
        epoch: int,
        on_signal: Callable[[Signal], None],
        on_resync: Callable[[], None],
        on_connectivity: Callable[[Connectivity], None],
    ) -> None:
        """Listen on the abort channel of `epoch` and on the broadcast channel.

        `on_resync` is called after every (re)subscription: what was published meanwhile is gone, so
        the worker re-reads everything of its own. All callbacks run on the event loop and must not
        block. Called again with a newer epoch after the worker was fenced: the old abort channel is
        left. Returns at once; connecting goes on in the background for ever.
        """
        ...

    def notify_worker(self, epoch: int, signal: Signal) -> None:
        """Publish to the abort channel of `epoch`. Fire and forget."""
        ...

    def notify_thread(self, thread_id: str, signal: Signal) -> None:
        """Publish on the thread's channel. Fire and forget."""
        ...

    def hint(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        """A run's log has grown up to this id: wake who follows it in this process, without the transport.
        Followers elsewhere hear of it from the log itself, or by `announce`."""
        ...

    @property
    def announces(self) -> bool:
        """Does what others `announce` arrive here at this moment?"""
        ...

    def announce(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        """A run's log, which the transport knows nothing of, has grown up to this id: wake who follows it on
        other workers. Fire and forget; where nothing carries it, they look for themselves."""
        ...

    def watch(self, thread_id: str, log: str | None = None) -> AbstractAsyncContextManager[Wakeup]:
        """Wake up when something is published on the thread's channel; when the log of the run `log` grows
        only if it is named.

        Entering waits (bounded, at most 250 ms) until the subscription stands, so that a caller who
        enters, reads the row and then waits cannot miss a signal that a healthy transport carries.
        A (re)subscription wakes the watcher too.
        """
        ...

    async def aclose(self) -> None:
        """Stop listening and release the connection. Idempotent."""
        ...
