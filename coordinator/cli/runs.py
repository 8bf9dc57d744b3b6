"""runs list, runs show."""

from __future__ import annotations

import time

from coordinator.arguments import check_optional_id, check_status
from coordinator.cli import screen
from coordinator.cli.access import looking_at, positions, run_or_fail
from coordinator.cli.documents import run_document, run_in_full
from coordinator.cli.failures import DONE
from coordinator.cli.text import clock, pretty, short, span
from coordinator.cli.tracebacks import place_of_traceback
from coordinator.settings import Settings
from stores.rows import RunRow
from stores.times import instant

COLUMNS = ("RUN", "THREAD", "PHASE", "STATUS", "PLACE", "AGE", "TOOK", "OWNER", "STRATEGY", "ERROR")
SPARE = ("STRATEGY", "ERROR", "TOOK", "PLACE", "STATUS", "OWNER")
"""What a narrow terminal does without, first the first: the phase says where a run stands."""


async def list_runs(
    settings: Settings,
    *,
    thread: str | None,
    statuses: tuple[str, ...],
    in_flight: bool,
    limit: int,
    as_json: bool,
) -> int:
    wanted = tuple(check_status(status).value for status in statuses)
    thread_id = check_optional_id("--thread", thread)
    async with looking_at(settings) as seen:
        rows = await seen.store.runs(thread_id=thread_id, statuses=wanted, in_flight=in_flight, limit=limit)
        places = await positions(seen.store, rows)
    if as_json:
        screen.show_document({"runs": [run_document(row, places.get(row.run_id)) for row in rows]})
    else:
        lines = [run_line(row, places.get(row.run_id)) for row in rows]
        screen.show_table(COLUMNS, lines, none=f"no such runs in {settings.shown_store}", spare=SPARE)
    return DONE


def run_line(row: RunRow, place: int | None) -> list[object]:
    """The cells of COLUMNS."""
    now = time.time_ns() // 1000
    began = instant(row.created_at)
    return [
        row.run_id,
        row.thread_id,
        screen.state(row.phase.value),
        screen.state(row.status.value),
        place,
        None if began is None else span((now - began) / 1e6),
        took(row, now),
        row.owner_epoch if row.owner_epoch is not None else row.home_epoch,
        row.multitask_strategy,
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
