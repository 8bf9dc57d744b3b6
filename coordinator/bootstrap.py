"""Composition root: the only module that chooses adapters for a store URL and a Redis URL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
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
from coordinator.webhooks.settings import WebhookSettings, settings_in_code
from coordinator.workers.projections import Projection
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

    With `migrate=False`, `open` refuses an older schema instead of migrating it; with `create=False`, a
    store that does not exist.
    """
    if not url:
        raise InvalidArgument(
            "store", "the URL is empty: set COORDINATOR_STORE, or unset it for sqlite:///runs.db"
        )
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
    # Without ://, the value may be `user:password`: it is not repeated in the error.
    shown = redact_url(url) if separator else "the value"
    raise InvalidArgument("store", f"{shown} is not a store URL that this version knows; known: {known}")


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
        """True if Redis answers a ping. None if no Redis is configured."""
        return await self.links[0].ping() if self.links else None

    async def trouble(self) -> str | None:
        """Connect as workers do and try every Redis feature that they use, on scratch keys and channels.

        Returns the first refusal as a sentence; None if all work, or no Redis is configured. Takes seconds.
        """
        for link in self.links:
            while not await link.ping():  # the link may still be connecting
                if link.away:
                    return link.trouble or "it does not answer"
        return None if self.examine is None else await self.examine()

    async def present(self, epochs: Collection[int]) -> set[int] | None:
        """Those of the workers that are present in this Redis, with this namespace. None if no Redis is
        configured, or it did not answer for each of them."""
        if not self.links:
            return None
        from coordinator.redis.scripts import read

        link, present = self.links[0], set[int]()
        for epoch in epochs:
            value = await link.call(read(link.keys.worker(epoch).lease))
            if value is None:
                return None
            if value != b"":
                present.add(epoch)
        return present


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
    """Does no I/O. Raises InvalidArgument for an invalid URL."""
    if not url:
        if settings.event_log == "redis":
            raise InvalidArgument("event_log", "redis requires a Redis URL")
        notifier = _notifier_without_redis(store, settings)
        return _Transport(
            notifier, LocalSlotLock(notifier), _log_without_redis(opened, notifier, settings), ()
        )
    from coordinator.event_logs.redis import RedisEventLog
    from coordinator.locks.redis import RedisSlotLock
    from coordinator.notifiers.redis import RedisNotifier
    from coordinator.redis.address import Address
    from coordinator.redis.link import RedisLink, Use
    from coordinator.redis.published import PublishedEvents

    try:
        # Shared by both links and the listener: resolved names, the order of the sentinels, the TLS context.
        address = Address(url, credentials or _credentials(settings))
    except ValueError as error:
        raise InvalidArgument("redis", str(error)) from None
    link = RedisLink(address, namespace=settings.namespace, budget=settings.admission_budget)
    # Events have their own connection: a megabyte of tokens must not delay a cancel. Connects on first use.
    bulk = RedisLink(address, namespace=settings.namespace, budget=settings.event_budget, use=Use.events)
    published = PublishedEvents()
    remote = RedisNotifier(link, canary=settings.canary, lease_ttl=settings.lease_ttl, published=published)
    event_log = (
        RedisEventLog(bulk, settings.event_log_ttl, published)
        if settings.event_log in ("auto", "redis")
        else _log_without_redis(opened, remote, settings)
    )
    return _Transport(remote, RedisSlotLock(link), event_log, (link, bulk), remote.examine)


def _log_without_redis(store: CoordinationStore, notifier: Notifier, settings: Settings) -> EventLog:
    """Events of a store in memory stay in memory as well: both belong to one process."""
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
    projections: Iterable[Projection] = (),
    manager_class: type[RunManager] = RunManager,
    **overrides: Any,  # Any: by the names of Settings, which checks them
) -> AsyncGenerator[RunManager]:
    """A started RunManager on a store URL and, if given, a Redis URL.

    Missing arguments are taken from `settings`, then from COORDINATOR_… variables; `overrides` are fields of
    `Settings` and `WebhookSettings`. `redis_credentials` is called for user and password at each connect (as
    redis-py's `CredentialProvider`). `assistants`: see `RunManager`. `projections`: see `Projection`.
    `manager_class`: a subclass of RunManager, called with its arguments. Without a reachable Redis the
    manager starts in store-only mode and connects later. Raises InvalidArgument, StoreError.
    """
    given, webhooks = settings_in_code(settings, overrides)
    opened_store = store_from_url(store or given.store, given)
    transport = _transport(redis or given.redis, store or given.store, given, opened_store, redis_credentials)
    manager = _checked_class(manager_class)(
        opened_store,
        settings=given,
        notifier=transport.notifier,
        slots=transport.slots,
        event_log=transport.event_log,
        hooks=(LoggingHook(),) if hooks is None else hooks,
        assistants=assistants,
    )
    for projection in projections:
        manager.projections.add(projection)
    try:
        async with manager, _delivering(manager, given, webhooks):
            yield manager
    finally:
        await opened_store.aclose()
        await transport.aclose()


def _checked_class(manager_class: object) -> type[RunManager]:
    """Raises InvalidArgument."""
    if not (isinstance(manager_class, type) and issubclass(manager_class, RunManager)):
        raise InvalidArgument("manager_class", f"must be a subclass of RunManager, not {manager_class!r:.50}")
    return manager_class


def _delivering(
    manager: RunManager, settings: Settings, webhooks: WebhookSettings | None
) -> AbstractAsyncContextManager[None]:
    """Runs the webhook deliverer if enabled. Raises ImportError without the extra [gateway]."""
    if webhooks is None or not settings.deliver_webhooks:
        return nullcontext()
    from coordinator.webhooks.deliverer import Deliverer, targets_of

    targets = targets_of(webhooks)
    manager.webhooks.restrict(targets.parse)
    return Deliverer(manager.webhooks, manager.assistants, webhooks, targets=targets).running()


@dataclass(frozen=True, slots=True)
class Observer:
    """A manager that is not registered as a worker, and its open store. Yielded by `open_observer`."""

    manager: RunManager
    store: CoordinationStore
    transport: _Transport

    async def redis_answers(self) -> bool | None:
        """True if Redis answers a ping. None if no Redis is configured."""
        return await self.transport.answers()

    async def redis_trouble(self) -> str | None:
        """Why workers cannot use Redis; None if they can, or none is configured. Takes seconds."""
        return await self.transport.trouble()

    async def present_in_redis(self, epochs: Collection[int]) -> set[int] | None:
        """Those of the workers that use this Redis with this namespace, as far as it knows within their
        `lease_ttl`. None if no Redis is configured or it does not answer."""
        return await self.transport.present(epochs)


@asynccontextmanager
async def open_observer(settings: Settings) -> AsyncGenerator[Observer]:
    """Read and cancel without a worker: registers, creates and migrates nothing.

    Admissions need `open_coordinator`: they register a worker. Published hints are flushed on exit if Redis
    is reachable. Raises InvalidArgument, StoreError.
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
    """A registered worker that reaps only on call. Yielded by `open_reaper`."""

    def __init__(self, store: CoordinationStore, worker: Worker, reaper: Reaper) -> None:
        self.store, self._worker, self._reaper = store, worker, reaper

    @property
    def epoch(self) -> int:
        return self._worker.epoch

    async def reap(self, *, error: str, before: str | None) -> None:
        """As `RunManager.reconcile_orphaned_inflight_runs`; hooks receive an event for each run and worker.
        A worker whose death is not proven is declared dead only by repeated calls, over one lease of it.
        """
        await self._worker.ready()
        await self._reaper.reap(error=error, before=before)


@asynccontextmanager
async def open_reaper(settings: Settings, *, hooks: Iterable[Hook]) -> AsyncGenerator[LoneReaper]:
    """A registered worker without background loops: no sweep of its own ends runs with another error text
    than the operator's, or runs outside the operator's limit. Creates and migrates nothing. Raises
    InvalidArgument, StoreError.
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

    async def start_pacemaker(epoch: int) -> None:
        del epoch
        parts.pacemaker.start(worker.lease)

    worker = parts.shared.worker
    worker.on_registered, worker.command = start_pacemaker, "coordinator-reconcile"
    try:
        await store.open()
        await worker.ready()
        yield LoneReaper(store, worker, parts.reaper)
    finally:
        await parts.close(0)
        await transport.aclose()
