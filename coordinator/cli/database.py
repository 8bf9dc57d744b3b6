"""db check, db migrate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from coordinator.bootstrap import open_observer, store_from_url
from coordinator.cli import projections, screen
from coordinator.cli.access import check_visible
from coordinator.cli.documents import Document, projection_document
from coordinator.cli.failures import DONE, FAILED, UNREACHABLE, note, warn
from coordinator.cli.text import counted, size
from coordinator.cli.workers import draining_warning, has_exited
from coordinator.errors import InvalidArgument, StoreUnavailable
from coordinator.settings import Settings
from stores.inspection import GrantingStore, InspectableStore, Inspection, MigratableStore
from stores.projections import ProjectionRow, ProjectionStore

_LOW_DISK = 256 * 1024 * 1024
_LARGE_WAL = 256 * 1024 * 1024


def _inspectable(settings: Settings) -> InspectableStore:
    check_visible(settings)
    store = store_from_url(settings.store, settings, migrate=False, create=False)
    if not isinstance(store, InspectableStore):
        raise InvalidArgument("store", f"{settings.shown_store} cannot be inspected by this version")
    return store


async def check(settings: Settings, *, as_json: bool) -> int:
    """Returns FAILED if the store is damaged or its schema is old, UNREACHABLE if the configured Redis cannot
    be used."""
    inspection = await _inspectable(settings).inspect()
    seen = await _beyond(settings, inspection)
    problems, warnings = problems_of(inspection), [*warnings_of(inspection, seen.exited), *seen.warnings]
    if seen.redis:
        problems.append(
            f"workers with this URL cannot use Redis fully: {seen.redis}. They continue without it: no data"
            " is lost, hints may arrive later"
        )
    if as_json:
        screen.show_document({"check": _document(settings, inspection, problems, warnings, seen)})
    else:
        _show(settings, inspection, seen)
        for problem in problems:
            screen.show_lines([f"problem: {problem}"])
        if not problems:
            screen.show_lines(["ok" if not warnings else "ok, with warnings (on stderr)"])
        for warning in warnings:
            warn(warning)
    if problems_of(inspection):
        return FAILED
    return UNREACHABLE if seen.redis else DONE


def problems_of(inspection: Inspection) -> list[str]:
    problems = [*inspection.faults, *inspection.missing, *inspection.functions]
    if inspection.obstacle is not None:
        problems.append(f"workers of this user cannot use the store: {inspection.obstacle}")
    if inspection.version < inspection.newest:
        problems.append(
            f"schema version {inspection.version} is older than {inspection.newest}: run `coordinator db"
            " migrate`"
        )
    return problems


def warnings_of(inspection: Inspection, exited: int = 0) -> list[str]:
    """Conditions that are not faults yet. `exited`: of the workers that are not declared dead."""
    warnings = list(inspection.advice)
    if inspection.version > inspection.newest:
        warnings.append(
            f"schema version {inspection.version} is newer than this program's {inspection.newest}, but"
            " compatible:"
            " upgrade run-coordinator on this host"
        )
    if inspection.disk_free is not None and inspection.disk_free < _LOW_DISK:
        warnings.append(f"only {size(inspection.disk_free)} of disk space are free")
    if inspection.wal_size is not None and inspection.wal_size > _LARGE_WAL:
        warnings.append(
            f"the write-ahead log has {size(inspection.wal_size)}: a process keeps a read transaction open"
        )
    if len(inspection.versions) > 1:
        of_each = ", ".join(f"{count} of {version}" for version, count in inspection.versions.items())
        warnings.append(f"workers of several versions are alive: {of_each}")
    if inspection.workers_draining:
        warnings.append(draining_warning(inspection.workers_draining, inspection.workers_alive))
    if exited:
        warnings.append(
            f"{counted(exited, 'worker')} exited and {'is' if exited == 1 else 'are'} not declared dead yet:"
            " see `coordinator workers list`, `coordinator reconcile`"
        )
    elif inspection.workers_expired:
        warnings.append(
            f"the lease of {counted(inspection.workers_expired, 'worker')} has expired:"
            " see `coordinator workers list`, `coordinator reconcile`"
        )
    return warnings


class _Seen(NamedTuple):
    """What the store's inspection does not show."""

    exited: int = 0
    """Workers that are not declared dead, although their processes have ended, as in `workers list`."""
    live: int = 0
    redis: str | None = None
    """The first problem of the configured Redis, tried by this process; "" = none, None = not tried."""
    present: int | None = None
    """How many of the live workers use this Redis with this namespace; None = unknown."""
    namespace: str = ""
    projections: Sequence[ProjectionRow] = ()

    @property
    def warnings(self) -> list[str]:
        behind = projections.warnings_of(self.projections, time.time_ns() // 1000)
        if self.present is None or self.present == self.live:
            return behind
        return [
            *behind,
            (
                f"{self.live - self.present} of {counted(self.live, 'live worker')} without an entry in this"
                f" Redis: they use none, another one, or another namespace than {self.namespace!r}, or it is"
                " away"
            ),
        ]

    @property
    def redis_text(self) -> str | None:
        if self.redis is None or self.redis:
            return self.redis
        if not self.live or self.present is None:
            return "usable from here; no live worker to compare with"
        return f"usable from here; used by {self.present} of {counted(self.live, 'live worker')}"


async def _beyond(settings: Settings, inspection: Inspection) -> _Seen:
    if problems_of(inspection) and not (settings.redis and inspection.version >= inspection.newest):
        return _Seen()
    async with open_observer(settings) as observer:
        rows = await observer.store.workers(counted=False)
        exited = {row.epoch for row in rows if has_exited(row, proven=observer.store.proven_dead(row))}
        live = [row.epoch for row in rows if row.epoch not in exited and not row.expired]
        changes = observer.store if isinstance(observer.store, ProjectionStore) else None
        queues = [] if changes is None else await changes.projections()
        trouble, present = None, None
        if settings.redis and not (trouble := await observer.redis_trouble() or ""):
            present = await observer.present_in_redis(live)
    in_redis = None if present is None else len(present)
    return _Seen(len(exited), len(live), trouble, in_redis, settings.namespace, queues)


def _document(
    settings: Settings, inspection: Inspection, problems: list[str], warnings: list[str], seen: _Seen
) -> Document:
    redis = seen.redis
    return {
        "store": settings.shown_store,
        "ok": not problems,
        "problems": problems,
        "warnings": warnings,
        "version": inspection.version,
        "newest": inspection.newest,
        "applied": [step._asdict() for step in inspection.applied],
        "integrity": "ok" if not inspection.faults else "damaged",
        "runs": inspection.runs,
        "in_flight": inspection.in_flight,
        "waiting": inspection.waiting,
        "threads": inspection.threads,
        "workers_alive": inspection.workers_alive - seen.exited,
        "workers_exited": seen.exited,
        "workers_expired": inspection.workers_expired,
        "workers_draining": inspection.workers_draining,
        "versions": inspection.versions,
        "transitions": inspection.transitions,
        "size": inspection.size,
        "wal_size": inspection.wal_size,
        "disk_free": inspection.disk_free,
        "redis": redis and "unreachable" if redis != "" else "ok",
        "redis_error": redis or None,
        "redis_workers": seen.present,
        "projections": [projection_document(row) for row in seen.projections],
    }


def _show(settings: Settings, inspection: Inspection, seen: _Seen) -> None:
    by_status = ", ".join(f"{count} {status}" for status, count in inspection.runs.items())
    notes = [f"{seen.exited} exited, not declared dead yet"] if seen.exited else []
    notes += [f"{inspection.workers_expired} with an expired lease"] if inspection.workers_expired else []
    notes += [f"{inspection.workers_draining} draining"] if inspection.workers_draining else []
    of_them = f" ({', '.join(notes)})" if notes else ""
    are = "is" if inspection.waiting == 1 else "are"
    screen.show_pairs(
        [
            ("store", settings.shown_store),
            ("schema", f"version {inspection.version}, newest {inspection.newest}"),
            ("integrity", "ok" if not inspection.faults else counted(len(inspection.faults), "fault")),
            ("runs", f"{sum(inspection.runs.values())}" + (f": {by_status}" if by_status else "")),
            ("in flight", f"{inspection.in_flight}, of which {inspection.waiting} {are} queued"),
            ("threads", inspection.threads),
            ("workers alive", f"{inspection.workers_alive - seen.exited}{of_them}"),
            ("transitions", inspection.transitions),
            ("projections", projections.summary(seen.projections) if seen.projections else None),
            ("size", size(inspection.size)),
            ("write-ahead log", size(inspection.wal_size)),
            ("disk free", size(inspection.disk_free)),
            ("redis", seen.redis_text),
        ]
    )


async def migrate(
    settings: Settings, *, grant_to: str | None = None, wait: float = 300.0, as_json: bool
) -> int:
    store = _inspectable(settings)
    if grant_to is not None and not isinstance(store, GrantingStore):
        raise InvalidArgument("grant_to", f"{settings.shown_store} has no roles")
    try:
        before: Inspection | None = await store.inspect()
    except StoreUnavailable:
        before = None  # does not exist: migrate creates it, or raises the reason
    repaired = await _migrate(settings, wait)
    if grant_to is not None and isinstance(store, GrantingStore):
        await store.grant(grant_to)
    after = await store.inspect()
    known = {step.number for step in before.applied} if before is not None else set[int]()
    applied = [step for step in after.applied if step.number not in known]
    repaired = [name for name in repaired if name not in {step.name for step in applied}]
    if as_json:
        body = {
            "store": settings.shown_store,
            "created": before is None,
            "version": after.version,
            "applied": [step._asdict() for step in applied],
            "repaired": repaired,
            "granted_to": grant_to,
        }
        screen.show_document({"migrate": body})
    else:
        changed = "migrated" if applied else "repaired" if repaired else "is up to date"
        done = "created" if before is None else changed
        screen.show_lines([f"{settings.shown_store} {done}: schema version {after.version}"])
        screen.show_lines([f"applied {step.name}" for step in applied], indent=2)
        screen.show_lines([f"recreated {name}" for name in repaired], indent=2)
        if grant_to is not None:
            screen.show_lines([f"granted to {grant_to}"], indent=2)
    return DONE


async def _migrate(settings: Settings, wait: float) -> list[str]:
    store = store_from_url(settings.store, settings)
    if isinstance(store, MigratableStore):
        return await store.migrate(patience=wait, report=note)
    await store.open()
    await store.aclose()
    return []
