"""db check, db migrate."""

from __future__ import annotations

from coordinator.bootstrap import open_observer, store_from_url
from coordinator.cli import screen
from coordinator.cli.access import check_visible
from coordinator.cli.documents import Document
from coordinator.cli.failures import DONE, FAILED, UNREACHABLE, note, warn
from coordinator.cli.text import counted, size
from coordinator.errors import InvalidArgument, StoreUnavailable
from coordinator.settings import Settings
from stores.inspection import GrantingStore, InspectableStore, Inspection, MigratableStore

_LOW_DISK = 256 * 1024 * 1024
_LARGE_WAL = 256 * 1024 * 1024


def _inspectable(settings: Settings) -> InspectableStore:
    check_visible(settings)
    store = store_from_url(settings.store, settings, migrate=False, create=False)
    if not isinstance(store, InspectableStore):
        raise InvalidArgument("store", f"{settings.shown_store} cannot be inspected by this version")
    return store


async def check(settings: Settings, *, as_json: bool) -> int:
    """Failed: it is not sound or its schema is old. Unreachable: Redis was named and is of no use to
    workers."""
    found = await _inspectable(settings).inspect()
    problems, warnings = problems_of(found), warnings_of(found)
    redis = await _redis(settings) if settings.redis and found.version >= found.newest else None
    if redis:
        problems.append(
            f"workers cannot use Redis as they need to: {redis}. They do without what Redis refuses:"
            " nothing is lost, hints may come later"
        )
    if as_json:
        screen.show_document({"check": _document(settings, found, problems, warnings, redis)})
    else:
        _show(settings, found, redis)
        for problem in problems:
            screen.show_lines([f"problem: {problem}"])
        if not problems:
            screen.show_lines(["ok" if not warnings else "ok, with warnings (on stderr)"])
        for warning in warnings:
            warn(warning)
    if problems_of(found):
        return FAILED
    return UNREACHABLE if redis else DONE


def problems_of(found: Inspection) -> list[str]:
    problems = [*found.faults, *found.functions]
    if found.version < found.newest:
        problems.append(
            f"schema version {found.version} is older than {found.newest}: run `coordinator db migrate`"
        )
    return problems


def warnings_of(found: Inspection) -> list[str]:
    """What is no fault yet."""
    warnings = list(found.advice)
    if found.version > found.newest:
        warnings.append(
            f"schema version {found.version} is newer than this program's {found.newest}; it may work on it:"
            " upgrade run-coordinator on this host"
        )
    if found.disk_free is not None and found.disk_free < _LOW_DISK:
        warnings.append(f"only {size(found.disk_free)} of disk are free")
    if found.wal_size is not None and found.wal_size > _LARGE_WAL:
        warnings.append(
            f"the write-ahead log has {size(found.wal_size)}: somebody keeps a read transaction open"
        )
    if len(found.versions) > 1:
        of_each = ", ".join(f"{count} of {version}" for version, count in found.versions.items())
        warnings.append(f"workers of several versions are alive: {of_each}")
    if found.workers_expired:
        warnings.append(
            f"the lease of {counted(found.workers_expired, 'worker')} is over:"
            " see `coordinator workers list`, `coordinator reconcile`"
        )
    return warnings


async def _redis(settings: Settings) -> str | None:
    """None = not asked; "" = all that workers use of it is allowed; else what is not."""
    async with open_observer(settings) as seen:
        return await seen.redis_trouble() or ""


def _document(
    settings: Settings, found: Inspection, problems: list[str], warnings: list[str], redis: str | None
) -> Document:
    return {
        "store": settings.shown_store,
        "ok": not problems,
        "problems": problems,
        "warnings": warnings,
        "version": found.version,
        "newest": found.newest,
        "applied": [step._asdict() for step in found.applied],
        "integrity": "ok" if not found.faults else "damaged",
        "runs": found.runs,
        "in_flight": found.in_flight,
        "waiting": found.waiting,
        "threads": found.threads,
        "workers_alive": found.workers_alive,
        "workers_expired": found.workers_expired,
        "versions": found.versions,
        "transitions": found.transitions,
        "size": found.size,
        "wal_size": found.wal_size,
        "disk_free": found.disk_free,
        "redis": redis and "unreachable" if redis != "" else "ok",
        "redis_error": redis or None,
    }


def _show(settings: Settings, found: Inspection, redis: str | None) -> None:
    by_status = ", ".join(f"{count} {status}" for status, count in found.runs.items())
    expired = f" ({found.workers_expired} with an expired lease)" if found.workers_expired else ""
    screen.show_pairs(
        [
            ("store", settings.shown_store),
            ("schema", f"version {found.version}, newest {found.newest}"),
            ("integrity", "ok" if not found.faults else f"{len(found.faults)} faults"),
            ("runs", f"{sum(found.runs.values())}" + (f": {by_status}" if by_status else "")),
            ("in flight", f"{found.in_flight}, of which {found.waiting} wait"),
            ("threads", found.threads),
            ("workers alive", f"{found.workers_alive}{expired}"),
            ("transitions", found.transitions),
            ("size", size(found.size)),
            ("write-ahead log", size(found.wal_size)),
            ("disk free", size(found.disk_free)),
            ("redis", redis if redis is None else redis or "workers can use it"),
        ]
    )


async def migrate(
    settings: Settings, *, grant_to: str | None = None, wait: float = 300.0, as_json: bool
) -> int:
    looked_at = _inspectable(settings)
    if grant_to is not None and not isinstance(looked_at, GrantingStore):
        raise InvalidArgument("grant_to", f"{settings.shown_store} knows no roles")
    try:
        before: Inspection | None = await looked_at.inspect()
    except StoreUnavailable:
        before = None  # not there: open() creates it, or says why it cannot
    repaired = await _migrate(settings, wait)
    if grant_to is not None and isinstance(looked_at, GrantingStore):
        await looked_at.grant(grant_to)
    after = await looked_at.inspect()
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
        screen.show_lines([f"made again {name}" for name in repaired], indent=2)
        if grant_to is not None:
            screen.show_lines([f"{grant_to} may work in it"], indent=2)
    return DONE


async def _migrate(settings: Settings, wait: float) -> list[str]:
    store = store_from_url(settings.store, settings)
    if isinstance(store, MigratableStore):
        return await store.migrate(patience=wait, tell=note)
    await store.open()
    await store.aclose()
    return []
