"""threads list, threads show."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace

from coordinator.arguments import check_choice, check_optional_id
from coordinator.cli import screen
from coordinator.cli.access import observing
from coordinator.cli.documents import thread_document, thread_in_full
from coordinator.cli.failures import DONE, CommandFailed, note_next_page
from coordinator.cli.filters import pairs_of
from coordinator.cli.ids import whole_id
from coordinator.cli.owners import Owners
from coordinator.cli.runs import COLUMNS, SPARE, run_line
from coordinator.cli.text import age, clock, pretty, short, span
from coordinator.resources.threads import THREAD_STATUSES
from coordinator.settings import Settings
from stores.catalogue import ThreadQuery
from stores.rows import RunRow, ThreadRow

THREAD_COLUMNS = (
    "THREAD", "STATUS", "ASSISTANT", "AGE", "CHANGED", "USER", "TTL", "METADATA", "ERROR",
)  # fmt: skip
THREAD_SPARE = ("METADATA", "TTL", "USER", "CHANGED")
"""See `coordinator.cli.runs.SPARE`."""


async def list_threads(
    settings: Settings, query: ThreadQuery, *, user: str | None, wide: bool, as_json: bool
) -> int:
    user_id = check_optional_id("--user", user)
    async with observing(settings) as observer:
        threads = await observer.store.threads(replace(query, limit=query.limit + 1), user_id=user_id)
    page, more = threads[: query.limit], threads[query.limit :]
    next_offset = query.offset + len(page) if more else None
    if as_json:
        documents = [thread_document(thread) for thread in page]
        screen.show_document({"threads": documents, "offset": next_offset})
        return DONE
    lines = [_thread_line(thread) for thread in page]
    none = f"no such threads in {settings.shown_store}"
    screen.show_table(THREAD_COLUMNS, lines, none=none, spare=THREAD_SPARE, wide=wide)
    note_next_page(next_offset)
    return DONE


def thread_query(
    status: str | None,
    metadata: Sequence[str],
    *,
    oldest_first: bool,
    everything: bool,
    limit: int,
    offset: int = 0,
) -> ThreadQuery:
    """Raises InvalidArgument."""
    return ThreadQuery(
        metadata=pairs_of(metadata),
        status=None if status is None else check_choice("--status", status, THREAD_STATUSES),
        sort_order="asc" if oldest_first else "desc",
        temporary=everything,
        limit=limit,
        offset=offset,
    )


def _thread_line(thread: ThreadRow) -> list[object]:
    """The cells of THREAD_COLUMNS."""
    now = time.time_ns() // 1000
    return [
        thread.thread_id,
        screen.state(thread.status),
        thread.assistant_id,
        age((now - thread.created_at) / 1e6),
        age((now - thread.updated_at) / 1e6),
        thread.user_id,
        None if thread.ttl_ms is None else span(thread.ttl_ms / 1000),
        short(json.dumps(thread.metadata, ensure_ascii=False), 60) if thread.metadata else None,
        None if thread.error is None else short(thread.error, 60),
    ]


async def show_thread(settings: Settings, thread_id: str, *, limit: int, as_json: bool) -> int:
    async with observing(settings) as observer:
        thread_id = await whole_id(observer.store, "thread", thread_id, argument="THREAD")
        thread = await observer.store.thread(thread_id)
        if thread is None:
            raise CommandFailed(
                "ThreadNotFound",
                f"thread {thread_id!r} does not exist in {settings.shown_store}",
                "`coordinator threads list` shows the existing threads; --store selects another store.",
                thread_id=thread_id,
            )
        runs = await observer.store.runs(thread_id=thread_id, limit=limit)
        waiting = await observer.store.waiting_line(thread_id)
        holder_id = await observer.store.holder(thread_id)
        holder = None if holder_id is None else await observer.store.row(holder_id)
        owners = await Owners.read(observer.store)
    if holder is not None and not holder.holds_thread:
        holder = None
    if as_json:
        document = thread_in_full(thread, holder=holder, waiting=waiting, runs=runs, owners=owners)
        screen.show_document({"thread": document})
    else:
        _show(thread, holder, waiting, runs, owners)
    return DONE


def _show(
    thread: ThreadRow, holder: RunRow | None, waiting: list[str], runs: list[RunRow], owners: Owners
) -> None:
    held = None
    if holder is not None:
        on = owners.loss(holder) or f"worker epoch {holder.owner_epoch}"
        held = f"run {holder.run_id} ({holder.phase}), fence {holder.fence}, {on}"
    screen.show_pairs(
        [
            ("thread", thread.thread_id),
            ("status", screen.state(thread.status)),
            ("error", None if thread.error is None else short(thread.error, 2000)),
            ("user", thread.user_id),
            ("removed after", None if thread.ttl_ms is None else span(thread.ttl_ms / 1000)),
            ("fence", thread.fence),
            ("held by", held or "no run"),
            ("queued", len(waiting)),
            ("created", clock(thread.created_at)),
            ("updated", clock(thread.updated_at)),
        ]
    )
    for position, run_id in enumerate(waiting, start=1):
        screen.show_lines([f"{position}. {run_id}"], indent=2)
    screen.show_lines(["values" if thread.values is not None else "no values"])
    if thread.values is not None:
        screen.show_lines(pretty(thread.values), indent=2)
    if thread.metadata:
        screen.show_lines(["metadata"])
        screen.show_lines(pretty(thread.metadata), indent=2)
    if thread.interrupts:
        screen.show_lines(["interrupts"])
        screen.show_lines(pretty(thread.interrupts), indent=2)
    positions = {run_id: position for position, run_id in enumerate(waiting, start=1)}
    screen.show_lines([""])
    lines = [run_line(row, positions.get(row.run_id), dead=owners.dead(row)) for row in runs]
    screen.show_table(COLUMNS, lines, none="no runs", spare=SPARE)
