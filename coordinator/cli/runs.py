"""runs list, runs show."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

from coordinator.arguments import check_optional_id, check_status
from coordinator.cli import screen
from coordinator.cli.access import looking_at, positions, run_or_fail
from coordinator.cli.documents import run_document, run_in_full
from coordinator.cli.failures import DONE, note
from coordinator.cli.filters import TIME, micros_of, pairs_of
from coordinator.cli.ids import optional_id
from coordinator.cli.text import age, clock, pretty, short, span
from coordinator.cli.tracebacks import place_of_traceback
from coordinator.errors import InvalidArgument
from coordinator.settings import Settings
from stores.base import CoordinationStore
from stores.finding import ListPosition, RunQuery
from stores.rows import RunRow
from stores.states import Phase
from stores.times import instant

COLUMNS = (
    "RUN", "STATUS", "ASSISTANT", "AGE", "TOOK", "PLACE", "OWNER", "USER", "STRATEGY", "THREAD", "ERROR",
)  # fmt: skip
SPARE = ("THREAD", "STRATEGY", "USER", "OWNER", "PLACE", "TOOK")
"""What a narrow terminal does without, first the first."""


class Listing(NamedTuple):
    """Which runs are listed, as it was given."""

    thread: str | None
    statuses: tuple[str, ...]
    in_flight: bool
    assistant: str | None
    user: str | None
    metadata: tuple[str, ...]
    since: str | None
    older_than: str | None
    silent_for: str | None
    before: str | None
    limit: int


async def list_runs(settings: Settings, listing: Listing, *, wide: bool, as_json: bool) -> int:
    query = _query(listing, time.time_ns() // 1000)
    user_id = check_optional_id("--user", listing.user)
    async with looking_at(settings) as seen:
        store = seen.store
        thread_id = await optional_id(store, "thread", listing.thread, argument="--thread")
        behind = None if listing.before is None else await _position(store, settings, listing.before)
        rows = await store.find_runs(
            replace(query, thread_id=thread_id), user_id=user_id, behind=behind, limit=listing.limit + 1
        )
        rows, more = rows[: listing.limit], rows[listing.limit :]
        places = await positions(store, rows)
    last = rows[-1].run_id if more else None
    if as_json:
        runs = [run_document(row, places.get(row.run_id)) for row in rows]
        screen.show_document({"runs": runs, "before": last})
        return DONE
    now = time.time_ns() // 1000
    lines = [run_line(row, places.get(row.run_id), now) for row in rows]
    screen.show_table(COLUMNS, lines, none=f"no such runs in {settings.shown_store}", spare=SPARE, wide=wide)
    if last is not None:
        note(f"there are more: --before {last}")
    return DONE


async def _position(store: CoordinationStore, settings: Settings, run_id: str) -> ListPosition:
    """Raises CommandFailed."""
    row = await run_or_fail(store, settings, run_id)
    created_us = instant(row.created_at)
    if created_us is None:
        raise InvalidArgument("--before", f"the time at which run {row.run_id!r} was created cannot be read")
    return ListPosition(created_us, row.run_id)


def _query(listing: Listing, now: int) -> RunQuery:
    """Raises InvalidArgument."""
    silent_for, older_than = listing.silent_for, listing.older_than
    return RunQuery(
        statuses=tuple(check_status(status).value for status in listing.statuses),
        assistant_id=check_optional_id("--assistant", listing.assistant),
        metadata=pairs_of(listing.metadata),
        created_from=None if listing.since is None else _since(listing.since, now),
        created_before=None if older_than is None else now - micros_of(older_than, "--older-than"),
        silent_since=None if silent_for is None else now - micros_of(silent_for, "--silent-for"),
        in_flight=listing.in_flight,
    )


def _since(text: str, now: int) -> int:
    """How long ago, or a time. Raises InvalidArgument."""
    if "-" not in text:
        return now - micros_of(text, "--since", or_time=True)
    moment = instant(text)
    if moment is None:
        raise InvalidArgument("--since", f"{text!r:.50} is no time: write {TIME}, or how long ago, 90m")
    return moment


def run_line(row: RunRow, place: int | None, now: int | None = None) -> list[object]:
    """The cells of COLUMNS."""
    now = time.time_ns() // 1000 if now is None else now
    began = instant(row.created_at)
    return [
        row.run_id,
        screen.state((row.status if row.phase is Phase.done else row.phase).value),
        row.assistant_id,
        None if began is None else age((now - began) / 1e6),
        took(row, now),
        place,
        row.owner_epoch if row.owner_epoch is not None else row.home_epoch,
        row.user_id,
        row.multitask_strategy,
        row.thread_id,
        None if row.error is None else short(row.error, 60),
    ]


def took(row: RunRow, now: int) -> str | None:
    """From its start to its end, or to now."""
    if row.started_at is None:
        return None
    return span(((row.settled_at or row.ended_at or now) - row.started_at) / 1e6)


async def show_run(settings: Settings, run_id: str, *, as_json: bool) -> int:
    async with looking_at(settings) as seen:
        row = await run_or_fail(seen.store, settings, run_id)
        place = (await positions(seen.store, [row])).get(row.run_id)
        traceback = await place_of_traceback(seen.store, await seen.store.transitions(row.run_id))
    if as_json:
        screen.show_document({"run": {**run_in_full(row, place), "traceback": traceback}})
        return DONE
    screen.show_pairs([*_pairs(row, place), ("traceback", traceback)])
    for name, value in (
        ("metadata", row.metadata),
        ("kwargs", row.kwargs),
        ("result", row.result),
        ("interrupts", row.interrupts),
        ("counters", {key: value for key, value in row.counters.items() if value}),
    ):
        if value not in (None, {}):
            screen.show_lines([name])
            screen.show_lines(pretty(value), indent=2)
    return DONE


def _pairs(row: RunRow, place: int | None) -> list[tuple[str, object]]:
    cancelled = None
    if row.cancel_action is not None:
        by = f" by {row.cancel_actor}" if row.cancel_actor else ""
        why = f": {row.cancel_reason}" if row.cancel_reason else ""
        cancelled = f"{row.cancel_action.value}, {row.cancel_cause}{by}{why}"
    return [
        ("run", row.run_id),
        ("thread", row.thread_id),
        ("phase", screen.state(row.phase.value)),
        ("status", screen.state(row.status.value)),
        ("place in line", place),
        ("assistant", row.assistant_id),
        ("user", row.user_id),
        ("strategy", row.multitask_strategy),
        ("owner epoch", row.owner_epoch),
        ("home epoch", row.home_epoch),
        ("fence", row.fence),
        ("model", row.model_name),
        ("created", clock(instant(row.created_at))),
        ("started", clock(row.started_at)),
        ("ended", clock(row.ended_at)),
        ("settled", clock(row.settled_at)),
        ("took", took(row, time.time_ns() // 1000)),
        ("cancelled", cancelled),
        ("rollback", row.rollback_state),
        ("error", row.error),
    ]
