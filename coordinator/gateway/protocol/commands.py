"""Commands of the protocol: they start runs, answer interrupts, and show the tree of a run's graphs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar, cast

from fastapi import HTTPException
from pydantic import ValidationError

from coordinator.errors import InvalidArgument, RunNotFound, ThreadNotFound
from coordinator.event_log import Event
from coordinator.gateway.caller import Caller, Role
from coordinator.gateway.protocol.channels import Namespace, address_of
from coordinator.gateway.protocol.events import EMITS_INPUT
from coordinator.gateway.protocol.places import BEGIN, Place
from coordinator.gateway.run_admission import start_run, validate_run
from coordinator.gateway.services import Services
from coordinator.gateway.wire.bodies import Body
from coordinator.gateway.wire.protocol import OPTIONS, Command, GetTree, InputRespond, RunStart
from coordinator.gateway.wire.runs import RunCreate
from coordinator.record import RunRecord
from coordinator.schemas import PROTOCOL, Json
from stores.json_values import JsonObject
from stores.rows import RunRow, ThreadRow
from stores.states import FAILED, RunStatus

Modelled = TypeVar("Modelled", bound=Body)

CHANNELS_OF_RUNS = ("values", "updates", "messages", "tools", "lifecycle", "tasks", "checkpoints", "custom")
OTHERS = frozenset({"input.inject", "state.get", "state.listCheckpoints", "state.fork"})
"""Commands of the protocol that this server does not have."""
_SUBSCRIPTIONS = frozenset({"subscription.subscribe", "subscription.unsubscribe", "subscription.reconnect"})
_SETTLES_WITHIN = 5.0
"""Seconds for which an answer waits for the run that it answers to settle."""
_POLL = 0.05


class CommandRefused(Exception):
    """`code` is one of the protocol's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Commands:
    """Those of one caller for one thread. A command that is invalid or not possible is answered with an error
    of the protocol; other refusals are raised, as by any route."""

    def __init__(
        self, services: Services, caller: Caller, thread_id: str, *, idempotency_key: str | None = None
    ) -> None:
        self._services, self._caller, self._thread_id = services, caller, thread_id
        self._key = idempotency_key
        self._handlers: dict[str, Callable[[JsonObject], Awaitable[JsonObject]]] = {
            "run.start": self._start,
            "input.respond": self._respond,
            "agent.getTree": self._tree,
        }

    async def handle(self, command: Command) -> JsonObject:
        try:
            answer = await self._handler(command.method)(command.params)
        except CommandRefused as refused:
            return error(command.id, refused.code, str(refused))
        except InvalidArgument as invalid:
            return error(command.id, "invalid_argument", str(invalid))
        except HTTPException as refused:
            if refused.status_code not in (404, 422):
                raise
            return error(command.id, "invalid_argument", str(refused.detail))
        return {"type": "success", "id": command.id, **answer}

    def _handler(self, method: str) -> Callable[[JsonObject], Awaitable[JsonObject]]:
        if (handler := self._handlers.get(method)) is not None:
            return handler
        if method in _SUBSCRIPTIONS:
            raise CommandRefused("not_supported", f"{method} needs a WebSocket: POST to stream/events")
        if method in OTHERS:
            raise CommandRefused("not_supported", f"{method} is not served here")
        raise CommandRefused("unknown_command", f"there is no command {method!r:.80}")

    # -- runs

    async def _start(self, params: JsonObject) -> JsonObject:
        self._check_role()
        given = model(RunStart, _with_strategy(params))
        fields: JsonObject = {"input": given.input}
        if given.input is not None and await self._open_interrupts():
            fields = {"command": {"resume": given.input}}
        fields |= {
            "assistant_id": given.assistant_id,
            "multitask_strategy": given.multitask_strategy,
            "langsmith_tracer": given.langsmith_tracer,
        }
        record = await self._run(fields, params)
        return {"result": {"run_id": record.run_id}, **await self._meta(record)}

    async def _respond(self, params: JsonObject) -> JsonObject:
        self._check_role()
        given = model(InputRespond, params)
        answers = _answers(given)
        thread = await self._settled_thread()
        known = {interrupt["id"] for interrupt in thread.interrupts or ()}
        if unknown := [key for key in answers if key not in known]:
            raise CommandRefused("no_such_interrupt", f"no interrupt {unknown[0]!r:.80} is open")
        assistant_id = thread.metadata.get("assistant_id") or thread.metadata.get("graph_id")
        if not isinstance(assistant_id, str):
            raise CommandRefused("no_such_run", "no run of the thread has an assistant")
        command: JsonObject = {"resume": self._resume(assistant_id, answers, known)}
        command |= {name: params[name] for name in ("update", "goto") if params.get(name) is not None}
        fields: JsonObject = {
            "assistant_id": assistant_id,
            "command": command,
            "strict_resume": given.strict_resume,
        }
        record = await self._run(fields, params)
        return {"result": {"run_id": record.run_id}, **await self._meta(record)}

    def _resume(self, assistant_id: str, answers: JsonObject, known: set[str]) -> Json:
        """Returns the value of the command. A graph looks its answers up by their ids; a function with one
        question receives the answer itself, as from other routes."""
        if len(known) > 1 or self._emits_interrupts(assistant_id):
            return answers
        return next(iter(answers.values()))

    def _check_role(self) -> None:
        if self._caller.role < Role.user:
            raise HTTPException(403, "this needs a key that may start runs")

    async def _run(self, fields: JsonObject, params: JsonObject) -> RunRecord:
        body = model(
            RunCreate,
            {
                **{name: params[name] for name in OPTIONS if name in params},
                **fields,
                "stream_subgraphs": True,
                "stream_resumable": True,
                "if_not_exists": "create",
                "on_completion": "keep",
            },
        )
        services, caller = self._services, self._caller
        spec = await validate_run(services, caller, body, self._thread_id, idempotency_key=self._key)
        spec = replace(spec, kwargs={**spec.kwargs, "stream_mode": self._modes(spec.assistant_id)})
        record = await start_run(services, spec)
        services.manager.threads.notify(self._thread_id)
        return record

    def _modes(self, assistant_id: str | None) -> list[str]:
        """A graph emits its interrupts itself, where they are raised. Those of others are in the row."""
        emits = (EMITS_INPUT,) if self._emits_interrupts(assistant_id) else ()
        return [PROTOCOL, *CHANNELS_OF_RUNS, *emits]

    def _emits_interrupts(self, assistant_id: str | None) -> bool:
        assistant = None if assistant_id is None else self._services.manager.assistants.get(assistant_id)
        return assistant is not None and "interrupt" in assistant.features

    async def _meta(self, record: RunRecord) -> JsonObject:
        """All events before this place are of earlier runs."""
        row = await self._services.manager.runs.get(record.run_id, user_id=self._caller.user_id)
        if not row.fence:
            return {}
        return {"meta": {"applied_through_seq": Place(row.fence, BEGIN).seq - 1}}

    async def _thread(self) -> ThreadRow:
        return await self._services.manager.threads.get(
            self._thread_id, with_values=False, user_id=self._caller.user_id
        )

    async def _open_interrupts(self) -> bool:
        try:
            thread = await self._thread()
        except ThreadNotFound:  # the run creates it
            return False
        return thread.status == "interrupted" and bool(thread.interrupts)

    async def _settled_thread(self) -> ThreadRow:
        """Clients answer as soon as they have the interrupt, which the run emits before it settles."""
        deadline = asyncio.get_running_loop().time() + _SETTLES_WITHIN
        while True:
            thread = await self._thread()
            if thread.status != "busy" or asyncio.get_running_loop().time() > deadline:
                return thread
            await asyncio.sleep(_POLL)

    # -- the tree

    async def _tree(self, params: JsonObject) -> JsonObject:
        given, manager, user_id = model(GetTree, params), self._services.manager, self._caller.user_id
        try:
            if given.run_id is None:
                rows = await manager.runs.of_thread(self._thread_id, limit=1, user_id=user_id)
                if not rows:
                    raise CommandRefused("no_such_run", "the thread has no run")
                row = rows[0]
            else:
                row = await manager.runs.get(given.run_id, thread_id=self._thread_id, user_id=user_id)
        except RunNotFound as unknown:
            raise CommandRefused("no_such_run", str(unknown)) from None
        events = await manager.events(row.run_id, limit=100_000, user_id=user_id)
        return {"result": {"tree": _tree_of(row, [event for event in events if isinstance(event, Event)])}}


def error(command_id: int | None, code: str, message: str) -> JsonObject:
    return {"type": "error", "id": command_id, "error": code, "message": message}


def model(kind: type[Modelled], fields: JsonObject) -> Modelled:
    """Raises CommandRefused, without what was sent."""
    kind.build()
    try:
        return kind.model_validate(fields)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
        raise CommandRefused(
            "invalid_argument", f"{where}: {first['msg']}" if where else first["msg"]
        ) from None


def _with_strategy(params: JsonObject) -> JsonObject:
    """Some clients write `multitaskStrategy`."""
    given = params.get("multitask_strategy", params.get("multitaskStrategy"))
    return {**params, "multitask_strategy": given}


def _answers(given: InputRespond) -> JsonObject:
    """Returns the answers by the ids of their interrupts."""
    if given.responses is not None:
        return {one.interrupt_id: one.response for one in given.responses}
    if given.interrupt_id is None:
        raise CommandRefused("invalid_argument", "interrupt_id: Field required")
    return {given.interrupt_id: given.response}


def _tree_of(row: RunRow, events: list[Event]) -> JsonObject:
    root: JsonObject = {"namespace": [], "status": _status_of(row), "graph_name": row.assistant_id or ""}
    nodes: dict[Namespace, JsonObject] = {(): root}
    for event in events:
        address = address_of(event.mode)
        if address is None or not address.namespace:
            continue
        for depth in range(1, len(address.namespace) + 1):
            _node_of(nodes, address.namespace[:depth])
        if address.channel == "lifecycle":
            data = cast("JsonObject", event.data)
            nodes[address.namespace] |= {"status": data["event"], "graph_name": data.get("graph_name", "")}
    return root


def _node_of(nodes: dict[Namespace, JsonObject], namespace: Namespace) -> None:
    if namespace not in nodes:
        name: Json = namespace[-1].partition(":")[0]
        nodes[namespace] = {"namespace": list(namespace), "status": "started", "graph_name": name}
        nodes[namespace[:-1]].setdefault("children", []).append(nodes[namespace])


def _status_of(row: RunRow) -> str:
    if row.open:
        return "running"
    if row.status in FAILED:
        return "failed"
    return "interrupted" if row.interrupts or row.status is RunStatus.interrupted else "completed"
