"""The banner of a started server: its URL, store, Redis, access, and an example request."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from importlib.metadata import version
from urllib.parse import quote

from coordinator.cli.text import safe
from coordinator.gateway.server.channel import Ready
from coordinator.gateway.server.listening import Listening

_NOTIFIED = "workers are notified of cancels by NOTIFY of PostgreSQL"
_POLLED = "workers poll for cancels every 0.5 s; --redis URL notifies them at once"


@dataclass(frozen=True, slots=True)
class Banner:
    listening: Listening
    workers: int
    embedded: bool
    """The store is in the data folder."""
    reload: bool | None = None
    """None for `serve`; for `dev`, whether it restarts on changes."""

    def lines(self, up: Ready) -> list[str]:
        several = "" if self.workers == 1 else f"{self.workers} workers "
        mode = "serves" if self.reload is None else "serves for development"
        return [
            f"coordinator {version('run-coordinator')} {mode}: {several}on {self.listening.url}",
            *(f"  {name:<10} {value}" for name, value in self._facts(up)),
            "",
            *(f"  {line}" for line in _example(self.listening.url, up)),
            "",
        ]

    def _facts(self, up: Ready) -> list[tuple[str, str]]:
        usage = " (in this folder: coordinator runs list)" if self.embedded else ""
        facts = [
            ("assistants", safe(", ".join(up.assistants)) or "none"),
            ("store", f"{up.store}{usage}"),
            ("redis", up.redis or f"none: {_NOTIFIED if up.notified else _POLLED}"),
            ("access", up.access),
            ("docs", f"{self.listening.url}/docs"),
        ]
        if up.admit_only:
            facts.append(("executes", "no runs: other workers on this store execute them (--admit-only)"))
        if up.page:
            facts.append(("page", f"{self.listening.url}/page/"))
        if up.pages:
            facts.append(("pages", f"{safe(', '.join(up.pages))} may call (--cors-origin URL: others)"))
        if self.reload is not None:
            facts.append(("reload", "when a Python file changes" if self.reload else "off"))
        return facts


def _example(url: str, up: Ready) -> list[str]:
    key = " -H 'x-api-key: YOUR KEY'" if up.keys else ""
    if "input" not in up.example:
        name = quote(str(up.example.get("assistant_id", "NAME")), safe="")
        return [f"curl -s {url}/assistants/{name}/schemas{key}"]
    return [
        f"curl -s {url}/runs/wait{key} -H 'content-type: application/json' \\",
        f"  -d {shlex.quote(json.dumps(up.example))}",
    ]
