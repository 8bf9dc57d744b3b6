"""The tests' one door to the inside of managers, event logs, transports and gateways; see `inside_stores`.

Tests use public names. Where a state or a moment has no public name, it gets one here. A private name of the
product that is renamed is renamed in this file, and in no test.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Iterable, Sized

    import uvicorn

    from coordinator import RunManager, RunRecord
    from coordinator.assembly.whole import Assembly
    from coordinator.event_logs.local import LocalEventLog
    from coordinator.event_logs.store import StoreEventLog
    from coordinator.events.follower import Follower
    from coordinator.events.window import Window
    from coordinator.gateway.metrics import Metrics
    from coordinator.gateway.middleware.rate import Buckets
    from coordinator.gateway.server.failures import CannotServe
    from coordinator.gateway.server.supervisor import Supervisor
    from coordinator.notifiers.postgres import PostgresNotifier
    from coordinator.notifiers.redis import RedisNotifier
    from coordinator.redis.canary import Canary
    from coordinator.redis.keeper import Keeper
    from coordinator.redis.link import RedisLink
    from coordinator.redis.listener import Listener
    from coordinator.redis.resp import Decoder
    from coordinator.servers.postgres import PostgresServer
    from coordinator.webhooks.deliverer import Deliverer
    from coordinator.webhooks.lookups import Lookups
    from coordinator.webhooks.targets import Targets
    from coordinator.workers.pruner import Pruner
    from coordinator.workers.reaper import Reaper
    from coordinator.workers.stall import StallWatch
    from stores.webhooks import ClaimedWebhook, WebhookReport

# -- managers


def assembly_of(manager: RunManager) -> Assembly:
    """Returns the collaborators of this manager."""
    return manager._parts


def records_of(manager: RunManager) -> dict[str, RunRecord]:
    """Returns the runs that this manager keeps in memory, by id: the dict itself, not a copy."""
    return manager._runs


def jobs_of(manager: RunManager) -> Collection[asyncio.Task[Any]]:
    """Returns the background jobs of this manager that are under way."""
    return assembly_of(manager).shared.jobs._tasks


def finished_in(manager: RunManager) -> int:
    """Returns the number of finished runs that this manager keeps something of."""
    return len(assembly_of(manager).shared.registry._finished)


def bookkeeping_of(manager: RunManager) -> dict[str, Sized]:
    """Returns what is empty once all runs of this manager have settled, by name."""
    parts = assembly_of(manager)
    registry = parts.shared.registry
    return {
        "admissions": registry._admitting,
        "arriving runs": registry._arriving,
        "early claims": registry._early,
        "settling runs": registry.settling._futures,
        "supervised tasks": registry.settling._supervised,
        "jobs": jobs_of(manager),
        "reads of a holder": parts.runs.admissions._busy._verifying,
    }


def threads_in(manager: RunManager) -> int:
    """Returns the number of threads whose runs this manager keeps in memory."""
    return len(assembly_of(manager).shared.registry._by_thread)


def retry_admissions_for(manager: RunManager, seconds: float) -> None:
    """Sets for how long (s) an admission that meets an outage of the store is tried again."""
    assembly_of(manager).runs.admissions._patient_for = seconds


def emitting_runs_of(manager: RunManager) -> Collection[str]:
    """Returns the ids of the runs whose events this manager numbers."""
    return assembly_of(manager).shared.events._runs


def add_hook(manager: RunManager, hook: Callable[[Any], object]) -> None:
    """Calls `hook` with each telemetry event from now on."""
    telemetry: Any = assembly_of(manager).shared.telemetry
    telemetry._hooks = (*telemetry._hooks, hook)


def extend_lease(manager: RunManager, deadline: float) -> None:
    """Sets the moment (s, by the lease's clock) at which this worker takes its lease to end."""
    lease = assembly_of(manager).shared.worker.lease
    lease._term = lease._term._replace(deadline=deadline)


def before_decisions_of_drain(manager: RunManager, act: Callable[[], Any]) -> None:
    """Awaits `act()` each time before a drain decides over the runs that are left."""
    drain = assembly_of(manager).drain
    decide_all = drain._decide_all

    async def acting(entries: Iterable[Any]) -> None:
        await act()
        await decide_all(entries)

    drain._decide_all = acting


def before_recoveries_of(manager: RunManager, act: Callable[[Any], object]) -> None:
    """Calls `act` with each orphan before this manager recovers it."""
    reaper = assembly_of(manager).reaper
    recover = reaper._recover

    async def acting(orphan: Any) -> None:
        act(orphan)
        await recover(orphan)

    reaper._recover = acting


def set_clock(reaper: Reaper, clock: Callable[[], float]) -> None:
    """Makes `clock` (s since boot) the clock by which this reaper measures silence."""
    reaper._clock = clock


def beat_of(pacemaker: Any) -> Callable[..., Any]:
    """Returns the method that makes one heartbeat."""
    return pacemaker._beat


def pruning_task_of(pruner: Pruner) -> asyncio.Task[None] | None:
    """Returns the task that removes rows in intervals, or None if there is nothing to remove."""
    return pruner._task


def note_turn(watch: StallWatch, scheduled_at: float) -> None:
    """Reports to `watch` that the event loop has now run what was scheduled at this time (s)."""
    watch._ran(scheduled_at)


def stalls_after(watch: StallWatch, seconds: float) -> None:
    """Sets how long (s) an event loop stands before it counts as stalled."""
    watch._after = seconds


def sample_of(metrics: Metrics, name: str) -> float | None:
    """Returns the value of this metric as the last refresh has set it."""
    return metrics._registry.get_sample_value(name)


# -- events


def backlog_of(log: StoreEventLog) -> Any:
    """Returns the events that this log has yet to write to its store. It is false if there are none."""
    return log._backlog


def runs_in_backlog_of(log: StoreEventLog) -> Collection[str]:
    """Returns the ids of the runs about whose events the backlog knows something."""
    return log._backlog._runs


def local_log_of(log: StoreEventLog) -> LocalEventLog:
    """Returns the log in memory that this log keeps for the followers of its own process."""
    return log._local


def runs_with_events_in(log: LocalEventLog) -> list[str]:
    """Returns the ids of the runs of which this log holds events."""
    return list(log._logs)


def store_behind(log: StoreEventLog) -> Any:
    """Returns the store that this log writes to."""
    return log._store


def poll_every(follower: Follower, seconds: float) -> None:
    """Sets how long (s) this follower waits for a hint before it reads again."""
    follower._readers.pause = follower._readers.runs._period = lambda: seconds


def is_waiting(follower: Follower) -> bool:
    """Returns whether this follower waits for an event, the end, or its next poll."""
    wakeup: Any = follower._wakeup
    return wakeup is not None and wakeup._waiter is not None


def buffered_by(follower: Follower) -> Sized:
    """Returns what this follower has read and not yet returned."""
    return follower._items


def parts_of(window: Window) -> Sized:
    """Returns the parts of which this window is made: it drops whole parts."""
    return window._parts


# -- notifiers and Redis


def watched_by(notifier: Any) -> Sized:
    """Returns the threads that are watched through this notifier."""
    return notifier._watched if hasattr(notifier, "_watched") else notifier._hub._threads


def channels_of(notifier: PostgresNotifier, epoch: int) -> tuple[str, str, str]:
    """Returns the names of the channels for aborts of this epoch, for threads, and for all workers."""
    return notifier._abort_channel(epoch), notifier._threads, notifier._broadcast


def link_of(user: Any) -> RedisLink:
    """Returns the link that a notifier or an event log sends its commands by."""
    return user._link


def keeper_of(link: RedisLink) -> Keeper:
    """Returns what keeps this link connected."""
    return link._keeper


def listener_of(notifier: RedisNotifier) -> Listener:
    """Returns the connection of this notifier that is subscribed to channels."""
    return notifier._listener


def wire_of(listener: Listener) -> Any:
    """Returns the connection as it is now, or None."""
    return listener._wire


def subscribed_by(listener: Listener) -> Collection[bytes]:
    """Returns the channels that this listener is to be subscribed to."""
    return listener._channels


def control_channels_of(notifier: RedisNotifier) -> Collection[bytes]:
    """Returns the channels that a worker is subscribed to, whatever is watched."""
    return notifier._control


def canary_of(notifier: RedisNotifier) -> Canary:
    """Returns what finds out whether messages arrive."""
    return notifier._canary


def epochs_without_receiver(notifier: RedisNotifier) -> Collection[int]:
    """Returns the epochs to which hints were sent that no connection received."""
    return notifier._unreceived


def timer_of(timed: Any) -> asyncio.TimerHandle | None:
    """Returns the timer that is running for this link or this cancel, or None."""
    return timed._timer


def under_way_in(busy: Any) -> Any:
    """Returns what is under way in this pool of connections, or among these hinted claims."""
    return busy._under_way


def bytes_kept_by(decoder: Decoder) -> int:
    """Returns how many bytes of an incomplete reply this decoder keeps."""
    return len(decoder._rest)


# -- gateways and webhooks


def callers_in(buckets: Buckets) -> int:
    """Returns the number of callers whose rate is kept."""
    return len(buckets._levels)


def resolve_by(targets: Targets, look_up: Any) -> None:
    """Makes `look_up` the way in which the names in URLs of webhooks are resolved."""
    targets._lookups._look_up = look_up


def after_release_of(lookups: Lookups, act: Callable[[], object]) -> None:
    """Calls `act` each time after a lookup has given back its thread."""
    release = lookups._release

    def acting(user_id: str | None) -> None:
        release(user_id)
        act()

    lookups._release = acting


def report_of_failure(deliverer: Deliverer, claimed: ClaimedWebhook, error: str) -> WebhookReport:
    """Returns what `deliverer` reports of an attempt that failed with `error`."""
    return deliverer._failed(claimed, error)


async def attempt_of(deliverer: Deliverer, claimed: ClaimedWebhook) -> WebhookReport:
    """Makes one attempt, and returns what `deliverer` reports of it."""
    return await deliverer._attempt(claimed)


# -- processes


def forget_random_bytes() -> None:
    """Drops the random bytes that this process has in stock for ids."""
    from coordinator import ids

    ids._pool._slices.clear()


async def serve_on(server: uvicorn.Server, listener: socket.socket) -> None:
    """Serves without handlers of signals, which belong to the process of the tests."""
    await server._serve([listener])


def count_failed_starts(supervisor: Supervisor, error: CannotServe, count: int) -> None:
    """As if its workers had failed to start so often in succession. Raises what ends the supervisor."""
    for _ in range(count):
        supervisor._count_failed_start(error)


def user_of(server: PostgresServer) -> int | None:
    """Returns the user id that the server runs as, or None if it is the tests' own."""
    return server._user
