"""threads show."""

from __future__ import annotations

from coordinator.arguments import check_id
from coordinator.cli import screen
from coordinator.cli.access import looking_at
from coordinator.cli.documents import thread_document
from coordinator.cli.failures import DONE, CommandFailed
from coordinator.cli.runs import COLUMNS, SPARE, run_line
from coordinator.cli.text import clock, pretty
from coordinator.settings import Settings
from stores.rows import RunRow, ThreadRow


async def show_thread(settings: Settings, thread_id: str, *, limit: int, as_json: bool) -> int:
    check_id("THREAD", thread_id)
    async with looking_at(settings) as seen:
        thread = await seen.store.thread(thread_id)
        if thread is None:
            raise CommandFailed(
                "ThreadNotFound",
                f"thread {thread_id!r} is not in {settings.store}",
                "`coordinator runs list` shows the threads of recent runs.",
                thread_id=thread_id,
            )
        runs = await seen.store.runs(thread_id=thread_id, limit=limit)
        waiting = await seen.store.waiting_line(thread_id)
        holding = await seen.store.holder(thread_id)
        holder = None if holding is None else await seen.store.row(holding)
    if holder is not None and not holder.holds_thread:
        holder = None
    if as_json:
        document = thread_document(thread, holder=holder, waiting=waiting, runs=runs)
        screen.show_document({"thread": document})
    else:
        _show(thread, holder, waiting, runs)
    return DONE


def _show(thread: ThreadRow, holder: RunRow | None, waiting: list[str], runs: list[RunRow]) -> None:
    held = None
    if holder is not None:
        held = (
            f"run {holder.run_id} ({holder.phase}), worker epoch {holder.owner_epoch}, fence {holder.fence}"
        )
    screen.show_pairs(
        [
            ("thread", thread.thread_id),
            ("status", screen.state(thread.status)),
            ("user", thread.user_id),
            ("fence", thread.fence),
            ("held by", held or "nobody"),
            ("waiting", len(waiting)),
            ("created", clock(thread.created_at)),
            ("updated", clock(thread.updated_at)),
        ]
    )
    for place, run_id in enumerate(waiting, start=1):
        screen.show_lines([f"{place}. {run_id}"], indent=2)
    screen.show_lines(["values" if thread.values is not None else "no values"])
    if thread.values is not None:
        screen.show_lines(pretty(thread.values), indent=2)
    if thread.interrupts:
        screen.show_lines(["interrupts"])
        screen.show_lines(pretty(thread.interrupts), indent=2)
    line = {run_id: place for place, run_id in enumerate(waiting, start=1)}
    screen.show_lines([""])
    screen.show_table(
        COLUMNS, [run_line(row, line.get(row.run_id)) for row in runs], none="no runs", spare=SPARE
    )
