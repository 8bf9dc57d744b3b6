"""open_coordinator: the only module that picks adapters."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from coordinator.assembly.whole import Assembly
from coordinator.assistants.decorator import Agents
from coordinator.errors import InvalidArgument
from coordinator.event_log import EventLog
from coordinator.event_logs.local import LocalEventLog
from coordinator.event_logs.store import PACE, PACE_FAR, StoreEventLog
from coordinator.lock import SlotLock
from coordinator.locks.local import LocalSlotLock
from coordinator.manager import RunManager
from coordinator.notifier import Notifier
from coordinator.notifiers.local import LocalNotifier
from coordinator.settings import Settings
from coordinator.telemetry import Hook
from coordinator.telemetry.log import LoggingHook
from coordinator.urls import redact_url
from coordinator.workers.reaper import Reaper
from coordinator.workers.worker import Worker
from stores.base import CoordinationStore
from stores.events import EventStore
from stores.memory import MemoryStore
from stores.sqlite import SQLiteStore

if TYPE_CHECKING:
    from coordinator.redis.credentials import Credentials
    from coordinator.redis.link import RedisLink
    from stores.postgres import Options

POSTGRES = ("postgresql://", "postgres://")


def store_from_url(
    url: str, settings: Settings, *, migrate: bool = True, create: bool = True
) -> CoordinationStore:
    """memory://, sqlite:///relative/path, sqlite:////absolute/path, postgresql://user@host,host/database.
    Raises InvalidArgument.

    `migrate=False` refuses an older schema instead of bringing it up to date, `create=False` a store
    that does not exist.
    """
    scheme, separator, rest = url.partition("://")
    if scheme == "memory":
        return MemoryStore(shared=True, search_timeout=settings.search_timeout)
    if scheme == "sqlite":
        if not rest.startswith("/") or len(rest) == 1:
            raise InvalidArgument(
                "store", "three slashes and a path: sqlite:///relative/path, sqlite:////absolute/path"
            )
        if "?" in rest:
            raise InvalidArgument("store", "a SQLite URL takes no options; a ? in a file's name is %3F")
        try:
            return SQLiteStore(
                Path(unquote(rest[1:])),
                synchronous=settings.sqlite_synchronous,
                busy_timeout=settings.busy_timeout,
                migrate=migrate,
                create=create,
                search_timeout=settings.search_timeout,
            )
        except ValueError as error:
            raise InvalidArgument("store", str(error)) from None
    if url.startswith(POSTGRES):
        return _postgres(url, settings, migrate=migrate)
    known = "memory://, sqlite:///path, postgresql://host/database"
    # Without :// what stands before the first colon may be a user, and what follows a password.
    what = redact_url(url) if separator else "the value"
    raise InvalidArgument("store", f"{what} is not a store URL that this version knows; known: {known}")


def _postgres(url: str, settings: Settings, *, migrate: bool) -> CoordinationStore:
    try:
        from stores.postgres import PostgresStore
    except ImportError:
        raise InvalidArgument(
            "store", "PostgreSQL needs its driver: install run-coordinator[postgres]"
        ) from None
    try:
        return PostgresStore(url, _postgres_options(settings), migrate=migrate)
    except ValueError as error:
        raise InvalidArgument("store", str(error)) from None


def _postgres_options(settings: Settings) -> Options:
    """Raises ValueError."""
    from stores.postgres import Options
    from stores.postgres.host_gate import folder_of

    return Options(
        schema=settings.postgres_schema,
        connections=settings.postgres_connections,
        statement_cache=settings.postgres_statement_cache,
        busy_timeout=settings.busy_timeout,
        away_timeout=settings.postgres_away,
        host_gate=folder_of(settings.postgres_host_gate),
        search_timeout=settings.search_timeout,
    )


class _Transport(NamedTuple):
    notifier: Notifier
    slots: SlotLock
    event_log: EventLog
    links: tuple[RedisLink, ...]
    examine: Callable[[], Awaitable[str | None]] | None = None

    async def aclose(self) -> None:
        for link in self.links:
            await link.aclose()

    async def answers(self) -> bool | None:
        """None where no Redis is configured."""
        return await self.links[0].ping() if self.links else None

    async def trouble(self) -> str | None:
        """Connect as workers do and try all that they use of Redis, on scratch keys and channels. Returns
        what is refused first, for people; None = nothing, or no Redis is configured."""
        for link in self.links:
            while not await link.ping():  # it may be connecting
                if link.away:
                    return link.trouble or "it does not answer"
        return None if self.examine is None else await self.examine()


def _credentials(settings: Settings) -> Credentials | None:
    """Raises InvalidArgument."""
    if settings.redis_credentials is None:
        return None
    from coordinator.redis.credentials import load

    try:
        return load(settings.redis_credentials)
    except ValueError as error:
        raise InvalidArgument("redis_credentials", str(error)) from None


def _transport(
    url: str | None,
    store: str,
    settings: Settings,
    opened: CoordinationStore,
    credentials: Credentials | None = None,
) -> _Transport:
    """Raises InvalidArgument for a URL that is of no use; does no I/O."""
    if not url:
        if settings.event_log == "redis":
            raise InvalidArgument("event_log", "redis keeps no events where no Redis is named")
        notifier = _notifier_without_redis(store, settings)
        return _Transport(
            notifier, LocalSlotLock(notifier), _log_without_redis(opened, notifier, settings), ()
        )
    from coordinator.event_logs.redis import RedisEventLog
    from coordinator.locks.redis import RedisSlotLock
    from coordinator.notifiers.redis import RedisNotifier
    from coordinator.redis.address import Address
    from coordinator.redis.link import RedisLink, Use

    try:
        # Both links and the listener share it: the look-up of a name, the sentinels' order, a TLS context.
        address = Address(url, credentials or _credentials(settings))
    except ValueError as error:
        raise InvalidArgument("redis", str(error)) from None
    link = RedisLink(address, namespace=settings.namespace, budget=settings.admission_budget)
    # A megabyte of tokens must not stand before a cancel. It connects with the first event.
    bulk = RedisLink(address, namespace=settings.namespace, budget=settings.event_budget, use=Use.events)
    remote = RedisNotifier(link, canary=settings.canary, lease_ttl=settings.lease_ttl)
    event_log = (
        RedisEventLog(bulk, settings.event_log_ttl)
        if settings.event_log in ("auto", "redis")
        else _log_without_redis(opened, remote, settings)
    )
    return _Transport(remote, RedisSlotLock(link), event_log, (link, bulk), remote.examine)


def _log_without_redis(store: CoordinationStore, notifier: Notifier, settings: Settings) -> EventLog:
    """A store in memory is one process's, and so may its events be."""
    if settings.event_log == "memory" or not (store.durable and isinstance(store, EventStore)):
        return LocalEventLog()
    pace = PACE if isinstance(store, SQLiteStore) else PACE_FAR
    return StoreEventLog(store, notifier, settings.event_log_ttl, pace=pace)


def _notifier_without_redis(store: str, settings: Settings) -> Notifier:
    if not settings.postgres_notify or not store.startswith(POSTGRES):
        return LocalNotifier()
    from coordinator.notifiers.postgres import PostgresNotifier

    try:
        return PostgresNotifier(
            settings.postgres_notify_url or store,
            _postgres_options(settings),
            namespace=settings.namespace,
            ping=settings.canary,
        )
    except ValueError as error:
        raise InvalidArgument("postgres_notify_url", str(error)) from None


@asynccontextmanager
async def open_coordinator(
    store: str | None = None,
    *,
    redis: str | None = None,
    redis_credentials: Credentials | None = None,
    settings: Settings | None = None,
    hooks: Iterable[Hook] | None = None,
    assistants: Agents | None = None,
    **overrides: Any,
) -> AsyncGenerator[RunManager]:
    """A started RunManager on a store URL and, if given, a Redis URL.

    What is not given comes from `settings`, then from COORDINATOR_… variables; `overrides` are fields
    of `Settings`. `redis_credentials` is asked for user and password at each connect (as redis-py's
    `CredentialProvider`). `assistants`: see `RunManager`. Redis being away is no error: the manager starts in
    store-only mode and heals. Raises InvalidArgument, StoreError.
    """
    given = settings or Settings(**overrides)
    chosen = store_from_url(store or given.store, given)
    transport = _transport(redis or given.redis, store or given.store, given, chosen, redis_credentials)
    manager = RunManager(
        chosen,
        settings=given,
        notifier=transport.notifier,
        slots=transport.slots,
        event_log=transport.event_log,
        hooks=(LoggingHook(),) if hooks is None else hooks,
        assistants=assistants,
    )
    try:
        async with manager, _delivering(manager, given):
            yield manager
    finally:
        await chosen.aclose()
        await transport.aclose()


def _delivering(manager: RunManager, settings: Settings) -> AbstractAsyncContextManager[None]:
    """Raises ImportError without the extra."""
    if not settings.deliver_webhooks:
        return nullcontext()
    from coordinator.webhooks.deliverer import Deliverer
    from coordinator.webhooks.settings import WebhookSettings

    return Deliverer(manager.webhooks, manager.assistants, WebhookSettings()).running()


@dataclass(frozen=True, slots=True)
class Observer:
    """What `open_observer` yields: a manager that is no worker, and its open store."""

    manager: RunManager
    store: CoordinationStore
    transport: _Transport

    async def redis_answers(self) -> bool | None:
        """None where no Redis is configured."""
        return await self.transport.answers()

    async def redis_trouble(self) -> str | None:
        """Why workers could not use Redis; None = they can, or none is configured. Takes up to some
        seconds."""
        return await self.transport.trouble()


@asynccontextmanager
async def open_observer(settings: Settings) -> AsyncGenerator[Observer]:
    """To read and to cancel without being a worker: it registers, creates and migrates nothing.

    What would make it a worker (an admission) belongs to `open_coordinator`. Hints that were sent have
    left when this ends, if Redis can be reached. Raises InvalidArgument, StoreError.
    """
    store = store_from_url(settings.store, settings, migrate=False, create=False)
    transport = _transport(settings.redis, settings.store, settings, store)
    manager = RunManager(
        store,
        settings=settings,
        notifier=transport.notifier,
        slots=transport.slots,
        event_log=transport.event_log,
    )
    try:
        await store.open()
        yield Observer(manager, store, transport)
    finally:
        await manager.aclose()
        await transport.aclose()


class LoneReaper:
    """What `open_reaper` yields: a worker that declares workers dead and ends runs only when `reap` is
    called."""

    def __init__(self, store: CoordinationStore, worker: Worker, reaper: Reaper) -> None:
        self.store, self._worker, self._reaper = store, worker, reaper

    @property
    def epoch(self) -> int:
        return self._worker.epoch

    async def reap(self, *, error: str, before: str | None) -> None:
        """As `RunManager.reconcile_orphaned_inflight_runs`; emits what it ended to the hooks. A worker that
        nothing proves dead is declared dead by repeated calls, over one lease of that worker.
        """
        await self._worker.ready()
        await self._reaper.reap(error=error, before=before)


@asynccontextmanager
async def open_reaper(settings: Settings, *, hooks: Iterable[Hook]) -> AsyncGenerator[LoneReaper]:
    """A registered worker without loops of its own: no sweep ends runs with another error text, or
    beyond the limit, than the operator's. Creates and migrates nothing. Raises InvalidArgument, StoreError.
    """
    store = store_from_url(settings.store, settings, migrate=False, create=False)
    transport = _transport(settings.redis, settings.store, settings, store)
    parts = Assembly(
        store,
        settings,
        notifier=transport.notifier,
        slots=transport.slots,
        event_log=transport.event_log,
        hooks=hooks,
    )

    async def only_beat(epoch: int) -> None:
        del epoch
        parts.pacemaker.start(worker.lease)

    worker = parts.shared.worker
    worker.on_registered, worker.command = only_beat, "coordinator-reconcile"
    try:
        await store.open()
        await worker.ready()
        yield LoneReaper(store, worker, parts.reaper)
    finally:
        await parts.close(0)
        await transport.aclose()
