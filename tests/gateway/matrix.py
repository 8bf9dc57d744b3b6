"""The permission matrix: one row for each route, and the cells that follow from it.

A route of the gateway without a row fails `test_authorization`. A row defines which permission a route needs
and how to call it; the expected status for each caller follows from that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import uuid4

import httpx

from coordinator.gateway.caller import Role

AGENT: dict[str, Any] = {"assistant_id": "agent", "input": {}}
ITEM: dict[str, Any] = {"namespace": ["a"], "key": "k"}
SLOW: dict[str, Any] = {"assistant_id": "agent", "input": {"sleep": 60}}
ENDLESS = "GET", "/threads/{thread_id}/stream"
"""The response lasts until its client disconnects."""
ENDLESS_EVENTS = "POST", "/threads/{thread_id}/stream/events"
"""So does this one."""
SOCKETS = {("WEBSOCKET", "/threads/{thread_id}/stream/events")}
"""Their rows are in `test_sockets_of_threads`: who may open one, and what each command needs."""
MALFORMED = "not-a-uuid"


class CallerKind(StrEnum):
    no_key = "without a key"
    stranger = "with a wrong key"
    reader = "reader"
    user = "user"
    other = "another user"
    watcher = "reader of all users"
    admin = "admin"


ROLES: dict[CallerKind, tuple[Role, str | None]] = {
    CallerKind.reader: (Role.reader, "alice"),
    CallerKind.user: (Role.user, "alice"),
    CallerKind.other: (Role.user, "bob"),
    CallerKind.watcher: (Role.reader, None),
    CallerKind.admin: (Role.admin, None),
}


class What(StrEnum):
    own = "own"
    foreign = "foreign"
    missing = "missing"
    malformed = "malformed"
    foreign_child = "own thread, foreign run"
    missing_child = "own thread, missing run"


class Needs(StrEnum):
    public = "public"
    reader = "reader"
    user = "user"
    all_users = "a key that is not for one user"
    admin = "admin"

    def lets(self, kind: CallerKind) -> bool:
        if self is Needs.public:
            return True
        if kind not in ROLES:
            return False
        role, user_id = ROLES[kind]
        if self is Needs.all_users:
            return user_id is None
        return role >= Role[self.value]


class Ids(NamedTuple):
    thread_id: str
    run_id: str
    cron_id: str


def new_ids() -> Ids:
    return Ids(str(uuid4()), str(uuid4()), str(uuid4()))


@dataclass(frozen=True)
class Row:
    """`own` is the status for an existing, accessible target, `hidden` for any other."""

    needs: Needs
    own: int = 200
    hidden: int = 404
    body: Callable[[Ids], Any] | None = None
    named: bool = False
    """The body names a thread or a run, also if the path does not."""
    in_flight: bool = False
    """The request needs a run that is in flight."""

    def targets(self, path: str) -> tuple[What, ...]:
        run, thread, cron = (f"{{{name}_id}}" in path for name in ("run", "thread", "cron"))
        if not (run or thread or cron or self.named):
            return (What.own,)
        several = (run and thread) or (self.named and self.in_flight)
        children = (What.foreign_child, What.missing_child) if several else ()
        return (What.own, What.foreign, What.missing, What.malformed, *children)


def _run(ids: Ids) -> Any:
    return AGENT


def cron_body(ids: Ids) -> Any:
    return {**AGENT, "schedule": "0 0 1 1 *"}


def _nothing(ids: Ids) -> Any:
    return {}


_READ, _WRITE = Row(Needs.reader), Row(Needs.user)
_RUN = Row(Needs.user, body=_run)

ROWS: dict[tuple[str, str], Row] = {
    ("GET", "/openapi.json"): Row(Needs.public),
    ("GET", "/docs"): Row(Needs.public),
    ("GET", "/docs/page.js"): Row(Needs.public),
    ("GET", "/docs/swagger-ui-bundle.js"): Row(Needs.public),
    ("GET", "/docs/swagger-ui.css"): Row(Needs.public),
    ("GET", "/ok"): Row(Needs.public),
    ("GET", "/info"): Row(Needs.public),
    ("GET", "/coordinator/health/live"): Row(Needs.public),
    ("GET", "/coordinator/health/ready"): Row(Needs.public),
    # -- assistants. The registered ones are the same for all callers, which cannot change them.
    ("POST", "/assistants"): Row(Needs.user, body=lambda ids: {"graph_id": "agent"}),
    ("PATCH", "/assistants/{assistant_id}"): Row(Needs.user, own=409, body=lambda ids: {"name": "a"}),
    ("DELETE", "/assistants/{assistant_id}"): Row(Needs.user, own=409),
    ("POST", "/assistants/{assistant_id}/versions"): Row(Needs.reader, body=_nothing),
    ("POST", "/assistants/{assistant_id}/latest"): Row(Needs.user, own=409, body=lambda ids: {"version": 1}),
    ("POST", "/assistants/search"): Row(Needs.reader, body=_nothing),
    ("POST", "/assistants/count"): Row(Needs.reader, body=_nothing),
    ("GET", "/assistants/{assistant_id}"): _READ,
    ("GET", "/assistants/{assistant_id}/schemas"): _READ,
    ("GET", "/assistants/{assistant_id}/graph"): _READ,
    ("GET", "/assistants/{assistant_id}/subgraphs"): _READ,
    ("GET", "/assistants/{assistant_id}/subgraphs/{namespace}"): _READ,
    # -- threads
    ("POST", "/threads"): Row(Needs.user, body=_nothing),
    ("GET", "/threads/{thread_id}"): _READ,
    ("PATCH", "/threads/{thread_id}"): Row(Needs.user, body=lambda ids: {"metadata": {"a": 1}}),
    ("DELETE", "/threads/{thread_id}"): Row(Needs.user, own=204),
    ("POST", "/threads/search"): Row(
        Needs.reader, hidden=200, named=True, body=lambda ids: {"ids": [ids.thread_id]}
    ),
    ("POST", "/threads/prune"): Row(
        Needs.user, hidden=200, named=True, body=lambda ids: {"thread_ids": [ids.thread_id]}
    ),
    ("POST", "/threads/count"): Row(Needs.reader, body=_nothing),
    ("POST", "/threads/{thread_id}/copy"): _WRITE,
    ENDLESS: Row(Needs.reader, own=422),
    # A place that no thread has: it is refused after the thread was found.
    ENDLESS_EVENTS: Row(Needs.reader, own=422, body=lambda ids: {"channels": ["values"], "since": 2**62}),
    ("POST", "/threads/{thread_id}/commands"): Row(
        Needs.reader, body=lambda ids: {"id": 1, "method": "agent.getTree", "params": {}}
    ),
    # -- states
    ("GET", "/threads/{thread_id}/state"): _READ,
    # The demo assistant has one state per thread, without a checkpoint id.
    ("GET", "/threads/{thread_id}/state/{checkpoint_id}"): Row(Needs.reader, own=404),
    ("POST", "/threads/{thread_id}/state/checkpoint"): Row(
        Needs.reader, own=404, body=lambda ids: {"checkpoint": {"checkpoint_id": "c"}}
    ),
    ("POST", "/threads/{thread_id}/state"): Row(Needs.user, body=lambda ids: {"values": {"a": 1}}),
    ("GET", "/threads/{thread_id}/history"): _READ,
    ("POST", "/threads/{thread_id}/history"): Row(Needs.reader, body=_nothing),
    # -- stateless runs
    ("POST", "/runs"): _RUN,
    ("POST", "/runs/stream"): _RUN,
    ("POST", "/runs/wait"): _RUN,
    ("POST", "/runs/batch"): Row(
        Needs.user, named=True, body=lambda ids: [AGENT, {**AGENT, "thread_id": ids.thread_id}]
    ),
    ("GET", "/runs/{run_id}"): _READ,
    ("GET", "/runs/{run_id}/join"): _READ,
    ("GET", "/runs/{run_id}/stream"): _READ,
    # -- runs of a thread
    ("POST", "/threads/{thread_id}/runs"): _RUN,
    ("POST", "/threads/{thread_id}/runs/stream"): _RUN,
    ("POST", "/threads/{thread_id}/runs/wait"): _RUN,
    ("GET", "/threads/{thread_id}/runs"): _READ,
    ("GET", "/threads/{thread_id}/runs/{run_id}"): _READ,
    ("GET", "/threads/{thread_id}/runs/{run_id}/join"): _READ,
    ("GET", "/threads/{thread_id}/runs/{run_id}/stream"): _READ,
    ("POST", "/threads/{thread_id}/runs/{run_id}/cancel"): Row(Needs.user, own=202, in_flight=True),
    ("DELETE", "/threads/{thread_id}/runs/{run_id}"): Row(Needs.user, own=204),
    ("POST", "/runs/cancel"): Row(
        Needs.user,
        own=204,
        named=True,
        in_flight=True,
        body=lambda ids: {"thread_id": ids.thread_id, "run_ids": [ids.run_id]},
    ),
    # -- crons
    ("POST", "/runs/crons"): Row(Needs.user, body=cron_body),
    ("POST", "/threads/{thread_id}/runs/crons"): Row(Needs.user, body=cron_body),
    ("POST", "/runs/crons/search"): Row(Needs.reader, body=_nothing),
    ("POST", "/runs/crons/count"): Row(Needs.reader, body=_nothing),
    ("GET", "/runs/crons/{cron_id}"): Row(Needs.reader),
    ("PATCH", "/runs/crons/{cron_id}"): Row(Needs.user, body=lambda ids: {"enabled": False}),
    ("DELETE", "/runs/crons/{cron_id}"): Row(Needs.user, own=204),
    # -- the store of graphs, which the demo assistant does not have
    ("PUT", "/store/items"): Row(Needs.user, own=501, body=lambda ids: {**ITEM, "value": {}}),
    ("GET", "/store/items"): Row(Needs.reader, own=422),
    ("DELETE", "/store/items"): Row(Needs.user, own=501, body=lambda ids: ITEM),
    ("POST", "/store/items/search"): Row(Needs.reader, own=501, body=_nothing),
    ("POST", "/store/namespaces"): Row(Needs.reader, own=501, body=_nothing),
    # -- operations
    ("GET", "/coordinator/workers"): Row(Needs.all_users),
    ("GET", "/coordinator/runs/{run_id}/explain"): _READ,
    ("GET", "/coordinator/runs/{run_id}/receipt"): _READ,
    ("GET", "/coordinator/health"): _READ,
    ("POST", "/coordinator/drain"): Row(Needs.admin, own=202),
    ("GET", "/metrics"): Row(Needs.all_users),
}


def expected(row: Row, kind: CallerKind, what: What) -> int:
    if not row.needs.lets(kind):
        return 403 if kind in ROLES else 401
    if what is What.malformed:
        return 422
    return row.own if answered_in_full(row, kind, what) else row.hidden


def answered_in_full(row: Row, kind: CallerKind, what: What) -> bool:
    """Returns whether the target exists for this caller and the request succeeds."""
    if not row.needs.lets(kind):
        return False
    return what is What.own or (what is What.foreign and kind in ROLES and ROLES[kind][1] is None)


class Seen(NamedTuple):
    """A response without the requested ids and without parts that differ by design."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @classmethod
    def of(cls, answer: httpx.Response, ids: Ids) -> Seen:
        headers = ((name, value) for name, value in answer.headers.items() if name != "x-request-id")
        body = answer.content
        for place, value in (("thread", ids.thread_id), ("run", ids.run_id), ("cron", ids.cron_id)):
            body = body.replace(value.encode(), place.encode())
        return cls(answer.status_code, tuple(sorted(headers)), body)
