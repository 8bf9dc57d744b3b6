"""runs list, runs show."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

from coordinator.arguments import check_optional_id, check_status
from coordinator.cli import screen
from coordinator.cli.access import observing, run_or_fail
from coordinator.cli.documents import run_document, run_in_full
from coordinator.cli.failures import DONE, note
from coordinator.cli.filters import TIME, micros_of, pairs_of
from coordinator.cli.how_ended import ended_by, sentence, unstopped
from coordinator.cli.ids import optional_id
from coordinator.cli.owners import Owners
from coordinator.cli.pauses import Pause
from coordinator.cli.text import age, clock, pretty, short, span
from coordinator.cli.tracebacks import traceback_location
from coordinator.errors import InvalidArgument
from coordinator.runs.positions import positions
from coordinator.runs.unclaimed import waits_for
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
"""Columns that a narrow terminal omits, in this order."""


class RunFilters(NamedTuple):
    """Options of `runs list` that select runs."""

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


async def list_runs(settings: Settings, filters: RunFilters, *, wide: bool, as_json: bool) -> int:
    query = _query(filters, time.time_ns() // 1000)
    user_id = check_optional_id("--user", filters.user)
    async with observing(settings) as observer:
        store = observer.store
        thread_id = await optional_id(store, "thread", filters.thread, argument="--thread")
        behind = None if filters.before is None else await _position(store, settings, filters.before)
        rows = await store.find_runs(
            replace(query, thread_id=thread_id), user_id=user_id, behind=behind, limit=filters.limit + 1
        )
        rows, more = rows[: filters.limit], rows[filters.limit :]
        queue_positions, owners = await positions(store, rows), await Owners.read(store)
    last = rows[-1].run_id if more else None
    if as_json:
        runs = [run_document(row, queue_positions.get(row.run_id), owners=owners) for row in rows]
        screen.show_document({"runs": runs, "before": last})
        return DONE
    now = time.time_ns() // 1000
    lines = [run_line(row, queue_positions.get(row.run_id), now, dead=owners.dead(row)) for row in rows]
    screen.show_table(COLUMNS, lines, none=f"no such runs in {settings.shown_store}", spare=SPARE, wide=wide)
    if last is not None:
        note(f"there are more: --before {last}")
    return DONE


async def _position(store: CoordinationStore, settings: Settings, run_id: str) -> ListPosition:
    """Raises CommandFailed."""
    row = await run_or_fail(store, settings, run_id)
    created_us = instant(row.created_at)
    if created_us is None:
        raise InvalidArgument("--before", f"the creation time of run {row.run_id!r} cannot be parsed")
    return ListPosition(created_us, row.run_id)


def _query(filters: RunFilters, now: int) -> RunQuery:
    """Raises InvalidArgument."""
    silent_for, older_than = filters.silent_for, filters.older_than
    return RunQuery(
        statuses=tuple(check_status(status).value for status in filters.statuses),
        assistant_id=check_optional_id("--assistant", filters.assistant),
        metadata=pairs_of(filters.metadata),
        created_from=None if filters.since is None else _since(filters.since, now),
        created_before=None if older_than is None else now - micros_of(older_than, "--older-than"),
        silent_since=None if silent_for is None else now - micros_of(silent_for, "--silent-for"),
        in_flight=filters.in_flight,
    )


def _since(text: str, now: int) -> int:
    """Parse an age or a time. Raises InvalidArgument."""
    if "-" not in text:
        return now - micros_of(text, "--since", or_time=True)
    moment = instant(text)
    if moment is None:
        raise InvalidArgument("--since", f"{text!r:.50} is not a time: write {TIME}, or an age, 90m")
    return moment


def run_line(
    row: RunRow, position: int | None, now: int | None = None, *, dead: bool = False
) -> list[object]:
    """Return the cells of COLUMNS. `now`: microseconds since 1970. `dead`: see `Owners.dead`."""
    now = time.time_ns() // 1000 if now is None else now
    owner = row.owner_epoch if row.owner_epoch is not None else row.home_epoch
    created_us = instant(row.created_at)
    return [
        row.run_id,
        screen.state((row.status if row.phase is Phase.done else row.phase).value),
        row.assistant_id,
        None if created_us is None else age((now - created_us) / 1e6),
        took(row, None if dead else now),
        position,
        f"{owner}, dead" if dead else owner,
        row.user_id,
        row.multitask_strategy,
        row.thread_id,
        None if row.error is None else short(row.error, 60),
    ]


def took(row: RunRow, now: int | None) -> str | None:
    """Time from start to end, or to `now` (microseconds since 1970); None if it is unknown."""
    end = row.settled_at or row.ended_at or now
    return None if row.started_at is None or end is None else span((end - row.started_at) / 1e6)


async def show_run(settings: Settings, run_id: str, *, as_json: bool) -> int:
    async with observing(settings) as observer:
        row = await run_or_fail(observer.store, settings, run_id)
        position = (await positions(observer.store, [row])).get(row.run_id)
        waits = await waits_for(observer.store, row)
        history = await observer.store.transitions(row.run_id)
        traceback = await traceback_location(observer.store, history)
        owners = await Owners.read(observer.store)
        pause = await Pause.read(observer.store, row)
    end = ended_by(row, history)
    if as_json:
        screen.show_document(
            {
                "run": {
                    **run_in_full(row, position, owners=owners),
                    "waits_for": waits,
                    "waits_for_answer": pause.waits_for_answer,
                    "traceback": traceback,
                    "ended_by": end and end.value,
                }
            }
        )
        return DONE
    screen.show_pairs(
        [
            *_pairs(row, position, owners),
            ("paused", pause.sentence),
            ("waits for", waits),
            ("ended by", sentence(end, row)),
            ("traceback", traceback),
        ]
    )
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


def _pairs(row: RunRow, position: int | None, owners: Owners) -> list[tuple[str, object]]:
    cancelled, now = None, time.time_ns() // 1000
    loss = owners.loss(row)
    stopping = unstopped(row, now, loss)
    if row.cancel_action is not None:
        by = f" by {row.cancel_actor}" if row.cancel_actor else ""
        why = f": {row.cancel_reason}" if row.cancel_reason else ""
        cancelled = f"{row.cancel_action.value}, {row.cancel_cause}{by}{why}"
    return [
        ("run", row.run_id),
        ("thread", row.thread_id),
        ("phase", screen.state(row.phase.value)),
        ("status", screen.state(row.status.value)),
        ("queue position", position),
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
        ("took", took(row, None if owners.dead(row) else now)),
        ("cancelled", cancelled),
        ("stopping", stopping),
        ("worker", loss if stopping is None else None),
        ("rollback", row.rollback_state),
        ("error", None if row.error is None else short(row.error, 2000)),
    ]
