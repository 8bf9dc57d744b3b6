"""runs follow."""

from __future__ import annotations

import json
from typing import Any

from coordinator.cli import screen
from coordinator.cli.access import looking_at, run_or_fail
from coordinator.cli.failures import DONE
from coordinator.cli.text import short
from coordinator.event_log import End, Event, Gap
from coordinator.settings import Settings


async def follow_run(
    settings: Settings, run_id: str, *, after: str | None, modes: list[str] | None, as_json: bool
) -> int:
    async with looking_at(settings) as seen:
        run_id = (await run_or_fail(seen.store, settings, run_id)).run_id
        async with seen.manager.follow(run_id, after=after, modes=modes or None) as followed:
            async for told in followed:
                if as_json:
                    print(json.dumps(_document(told)), flush=True)
                else:
                    screen.show_lines([_line(told)])
    return DONE


def _document(told: Event | Gap | End) -> dict[str, Any]:
    if isinstance(told, Event):
        return {"event": {"id": str(told.id), "mode": told.mode, "data": told.data}}
    if isinstance(told, Gap):
        return {"gap": {"after": told.after, "before": told.before}}
    return {
        "end": {
            "run_id": told.run_id,
            "status": told.status.value,
            "error": told.error,
            "cause": told.cause,
            "last_id": told.last_id,
            "complete": told.complete,
        }
    }


def _line(told: Event | Gap | End) -> str:
    if isinstance(told, Event):
        return f"{told.id!s:<10} {told.mode}  {short(told.json, 500)}"
    if isinstance(told, Gap):
        return f"-- missing: after {told.after or 'the beginning'}, before {told.before or 'what follows'}"
    why = "".join(f", {word}" for word in (told.cause, told.error) if word)
    return f"-- {told.status.value}{why}{'' if told.complete else ' (events may be missing)'}"
