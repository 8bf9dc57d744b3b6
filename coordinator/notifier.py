"""The notifier port: lossy signals between workers.

A signal is a hint and never a fact. It may be lost, late, repeated or forged, so its receiver only re-reads
the row it names (law 2, "intent before signal"). Adapters: `notifiers.local` for one process or for several
that share only the store, `notifiers.redis` and `notifiers.postgres` for workers that share a server.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

MAX_MESSAGE_BYTES = 1024


class Connectivity(StrEnum):
    """The state of the transport, shown in health. It affects latency, never results."""

    off = "off"  # no transport configured: store-only mode
    connecting = "connecting"
    connected = "connected"
    suspected = "suspected"  # the canary was not seen in time; the connection is being replaced
    down = "down"


class Signal(BaseModel):
    """`cancel`: a run of the receiver was decided. `claim`: a thread in whose queue the receiver has a run
    may be free. `settled`: a run has settled and freed its thread (published on the thread's channel).

    Ids are absent if they exceed `MAX_MESSAGE_BYTES`: the receiver then re-reads all of its runs. Unknown
    fields are ignored: a later version may send more.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    kind: Literal["cancel", "claim", "settled"]
    thread_id: str | None = Field(default=None, max_length=255)
    run_id: str | None = Field(default=None, max_length=255)


@runtime_checkable
class Explaining(Protocol):
    """A notifier or an event log that reports why it is unreachable."""

    @property
    def trouble(self) -> str | None:
        """The reason as a sentence; None if it is reachable."""
        ...


class Wakeup(Protocol):
    """A level-triggered wake-up handed out by `Notifier.watch`."""

    def set(self) -> None:
        """Wake the one that waits, or the next call of `wait`."""
        ...

    async def wait(self, timeout: float) -> bool:
        """Return True once it was notified since the last call, False after `timeout` s (inf = never). One
        task at a time may wait."""
        ...


class Notifier(Protocol):
    """Publishes hints. No method raises because the transport is unreachable."""

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

        `on_resync` is called after every (re)subscription: signals published before it are lost, so the
        worker re-reads all of its runs. Callbacks run on the event loop and must not block. Called again
        with a newer epoch after the worker was fenced: the old abort channel is unsubscribed. Returns
        immediately; connecting is retried in the background without limit.
        """
        ...

    def notify_worker(self, epoch: int, signal: Signal) -> None:
        """Publish to the abort channel of `epoch`. Fire and forget."""
        ...

    def notify_thread(self, thread_id: str, signal: Signal) -> None:
        """Publish on the thread's channel. Fire and forget."""
        ...

    def hint(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        """Wake the followers of a run in this process: its log has grown up to this id. Does not use the
        transport; followers on other workers are notified by the log itself, or by `announce`."""
        ...

    @property
    def announces(self) -> bool:
        """True while announcements of other workers can be received."""
        ...

    def announce(self, thread_id: str, run_id: str, event_id: tuple[int, int]) -> None:
        """Wake the followers of a run on other workers: its log, kept outside the transport, has grown up to
        this id. Fire and forget; without a transport, followers poll."""
        ...

    def watch(self, thread_id: str, log: str | None = None) -> AbstractAsyncContextManager[Wakeup]:
        """Subscribe to the thread's channel, and to the growth of the log of run `log` if given.

        Entering waits at most 250 ms until the subscription is active. A caller that enters, reads the row
        and then waits therefore misses no signal of a healthy transport. A (re)subscription wakes the
        caller as well.
        """
        ...

    async def aclose(self) -> None:
        """Stop listening; release the connection and the callbacks. Idempotent."""
        ...
