"""runs follow: prints the events of a run until it ends."""

from __future__ import annotations

import json

from coordinator.cli import screen
from coordinator.cli.access import observing, run_or_fail
from coordinator.cli.failures import DONE
from coordinator.cli.text import short
from coordinator.event_log import End, Event, Gap
from coordinator.settings import Settings
from stores.json_values import JsonObject


async def follow_run(
    settings: Settings, run_id: str, *, after: str | None, modes: list[str] | None, as_json: bool
) -> int:
    async with observing(settings) as observer:
        run_id = (await run_or_fail(observer.store, settings, run_id)).run_id
        async with observer.manager.follow(run_id, after=after, modes=modes or None) as followed:
            async for item in followed:
                if as_json:
                    print(json.dumps(_document(item)), flush=True)
                else:
                    screen.show_lines([_line(item)])
    return DONE


def _document(item: Event | Gap | End) -> JsonObject:
    if isinstance(item, Event):
        return {"event": {"id": str(item.id), "mode": item.mode, "data": item.data}}
    if isinstance(item, Gap):
        return {"gap": {"after": item.after, "before": item.before}}
    return {
        "end": {
            "run_id": item.run_id,
            "status": item.status.value,
            "error": item.error,
            "cause": item.cause,
            "last_id": item.last_id,
            "complete": item.complete,
        }
    }


def _line(item: Event | Gap | End) -> str:
    if isinstance(item, Event):
        return f"{item.id!s:<10} {item.mode}  {short(item.json, 500)}"
    if isinstance(item, Gap):
        return f"-- missing: after {item.after or 'the beginning'}, before {item.before or 'the next event'}"
    why = "".join(f", {text}" for text in (item.cause, item.error) if text)
    return f"-- {item.status.value}{why}{'' if item.complete else ' (events may be missing)'}"
