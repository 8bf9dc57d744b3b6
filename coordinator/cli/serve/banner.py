"""What a server says when it is up: where it is, on what it keeps its runs, and how to try it."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from importlib.metadata import version

from coordinator.cli.text import safe
from coordinator.gateway.server.channel import Ready
from coordinator.gateway.server.listening import Listening

_NOTIFIED = "cancels between workers travel by NOTIFY of PostgreSQL"
_POLLED = "cancels between workers take up to 0.5 s; --redis URL makes them quick"


@dataclass(frozen=True, slots=True)
class Banner:
    listening: Listening
    workers: int
    embedded: bool
    """The store is of the data folder."""
    reload: bool | None = None
    """None for a server that is not for development."""

    def lines(self, up: Ready) -> list[str]:
        several = "" if self.workers == 1 else f"{self.workers} workers "
        kind = "serves" if self.reload is None else "develops"
        return [
            f"coordinator {version('run-coordinator')} {kind}: {several}on {self.listening.url}",
            *(f"  {name:<10} {value}" for name, value in self._facts(up)),
            "",
            *(f"  {line}" for line in _example(self.listening.url, up)),
            "",
        ]

    def _facts(self, up: Ready) -> list[tuple[str, str]]:
        look = " (to look at it, in this folder: coordinator runs list)" if self.embedded else ""
        facts = [
            ("assistants", safe(", ".join(up.assistants)) or "none"),
            ("store", f"{up.store}{look}"),
            ("redis", up.redis or f"none: {_NOTIFIED if up.notified else _POLLED}"),
            ("access", up.access),
            ("docs", f"{self.listening.url}/docs"),
        ]
        if up.pages:
            facts.append(("pages", f"{safe(', '.join(up.pages))} may call (--cors-origin URL: others)"))
        if self.reload is not None:
            facts.append(("reload", "when a Python file changes" if self.reload else "off"))
        return facts


def _example(url: str, up: Ready) -> list[str]:
    key = " -H 'x-api-key: YOUR KEY'" if up.keys else ""
    return [
        f"curl -s {url}/runs/wait{key} -H 'content-type: application/json' \\",
        f"  -d {shlex.quote(json.dumps(up.example))}",
    ]
