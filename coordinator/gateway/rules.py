"""What the user's functions decide about each route: resource, action and value, as in LangGraph's server,
and what their filter applies to. Runs, states and streams are decided with their thread.

A route without a rule cannot be served together with such functions, see `of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast
from uuid import UUID, uuid4

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from coordinator.errors import CronNotFound, ThreadExists, ThreadNotFound
from coordinator.gateway import assistant_rules, item_rules
from coordinator.gateway.assistant_rules import NOTHING_FOUND, may_run, uuid_of_assistant
from coordinator.gateway.errors import error_response
from coordinator.gateway.permits import Answer, GuardedRequest, Rule, object_in, optional_uuid
from coordinator.gateway.wire.bodies import MAX_BATCH
from coordinator.gateway.wire.runs import RunCreate
from coordinator.langgraph.access import Filter
from stores.json_values import Json, JsonObject

_OF_RUN = frozenset(RunCreate.model_fields) - {
    "after_seconds",
    "assistant_id",
    "if_not_exists",
    "metadata",
    "multitask_strategy",
    "on_completion",
    "on_disconnect",
}
"""Fields of a body that the functions get as `kwargs` of the run, or as `payload` of the cron."""
_METADATA = frozenset({"metadata"})
SOCKET = "WEBSOCKET"
"""In place of a method."""


async def identified(request: GuardedRequest) -> Answer:
    """Any user; the route itself requires a role where it needs one."""
    del request
    return None


# -- threads


async def create_thread(request: GuardedRequest) -> Answer:
    fields = request.fields
    thread_id = optional_uuid("thread_id", fields.get("thread_id")) or uuid4()
    value: JsonObject = {
        "thread_id": thread_id,
        "metadata": object_in(fields.get("metadata") or {}),
        "if_exists": fields.get("if_exists") or "raise",
        "ttl": fields.get("ttl"),
    }
    given = await request.permit("threads", "create", value)
    fields |= {"thread_id": str(thread_id), "metadata": value["metadata"]}
    existing = await request.metadata_of(thread_id) if given else None
    if existing is not None and not given.matches(existing):
        raise ThreadExists(str(thread_id))
    return None


def _on_thread(action: str) -> Rule:
    async def rule(request: GuardedRequest) -> Answer:
        thread_id = request.path_id("thread_id")
        await request.check_thread(
            thread_id, await request.permit("threads", action, {"thread_id": thread_id})
        )
        return None

    return rule


read_thread, delete_thread = _on_thread("read"), _on_thread("delete")
update_state = _on_thread("update")


async def update_thread(request: GuardedRequest) -> Answer:
    thread_id, fields = request.path_id("thread_id"), request.fields
    value: JsonObject = {"thread_id": thread_id, "metadata": object_in(fields.get("metadata") or {})}
    await request.check_thread(thread_id, await request.permit("threads", "update", value))
    fields["metadata"] = value["metadata"]
    return None


async def copy_thread(request: GuardedRequest) -> Answer:
    thread_id = request.path_id("thread_id")
    await request.check_thread(thread_id, await request.permit("threads", "read", {"thread_id": thread_id}))
    await request.permit("threads", "create", {"thread_id": uuid4()}, frozenset({"thread_id"}))
    return None


async def prune_threads(request: GuardedRequest) -> Answer:
    given = await request.permit("threads", "delete", {"thread_ids": request.fields.get("thread_ids")})
    for text in cast("list[Json]", request.fields.get("thread_ids") or ()) if given else ():
        thread_id = optional_uuid("thread_ids", text)
        if thread_id is not None:
            await request.check_thread(thread_id, given, may_be_new=True)
    return None


def _search(resource: str, keys: Sequence[str], nothing: Json) -> Rule:
    async def rule(request: GuardedRequest) -> Answer:
        fields = request.fields
        value: JsonObject = {key: fields[key] for key in keys if key in fields}
        value["metadata"] = object_in(fields.get("metadata") or {})
        given = await request.permit(resource, "search", value)
        fields["metadata"] = value["metadata"]
        return None if request.narrow(given) else JSONResponse(nothing, headers=NOTHING_FOUND)

    return rule


_THREAD_KEYS = ("values", "status", "limit", "offset", "ids")
search_threads, count_threads = _search("threads", _THREAD_KEYS, []), _search("threads", _THREAD_KEYS, 0)


# -- runs


async def create_run(request: GuardedRequest) -> Answer:
    thread_id = request.path_id("thread_id") if request.has_path("thread_id") else None
    return await _create_run(request, request.fields, thread_id)


async def create_batch(request: GuardedRequest) -> Answer:
    given = request.body
    if not isinstance(given, list):
        raise HTTPException(422, "the body must be a list of runs")
    bodies = cast("list[Json]", given)
    if len(bodies) > MAX_BATCH:  # the endpoint refuses them as well, but the functions would be called before
        raise HTTPException(422, f"the body must have at most {MAX_BATCH} runs")
    for body in bodies:
        fields = object_in(body)
        thread_id = optional_uuid("thread_id", fields.get("thread_id"))
        if (refused := await _create_run(request, fields, thread_id)) is not None:
            return refused
    return None


async def _create_run(request: GuardedRequest, fields: JsonObject, thread_id: UUID | None) -> Answer:
    strategy = fields.get("multitask_strategy") or "enqueue"
    value: JsonObject = {
        "thread_id": thread_id,
        "assistant_id": uuid_of_assistant(request, fields.get("assistant_id")),
        "run_id": None,
        "status": "pending",
        "metadata": object_in(fields.get("metadata") or {}),
        "prevent_insert_if_inflight": strategy == "reject",
        "multitask_strategy": strategy,
        "if_not_exists": fields.get("if_not_exists") or "reject",
        "after_seconds": fields.get("after_seconds") or 0,
        "kwargs": {key: fields[key] for key in _OF_RUN if key in fields},
    }
    given = await request.permit("threads", "create_run", value, frozenset({"kwargs"}))
    if thread_id is not None:
        await request.check_thread(thread_id, given, may_be_new=value["if_not_exists"] == "create")
    _write_back(fields, value, "kwargs")
    return await may_run(request, fields.get("assistant_id"))


def _write_back(fields: JsonObject, value: JsonObject, key: str) -> None:
    """Replaces the request of a run by what the function has left of it. Raises HTTPException."""
    changed = object_in(value[key])
    if unknown := changed.keys() - _OF_RUN:
        raise HTTPException(500, f"the function that authorises has added {sorted(unknown)} to {key}")
    for name in _OF_RUN & fields.keys():
        del fields[name]
    fields |= {**changed, "metadata": value["metadata"]}


async def list_runs(request: GuardedRequest) -> Answer:
    thread_id = request.path_id("thread_id")
    value: JsonObject = {"thread_id": thread_id, "metadata": {}}
    await request.check_thread(thread_id, await request.permit("threads", "search", value))
    return None


def _on_run(action: str) -> Rule:
    async def rule(request: GuardedRequest) -> Answer:
        run_id = request.path_id("run_id")
        if request.has_path("thread_id"):
            thread_id = request.path_id("thread_id")
        else:
            thread_id = await request.thread_of_run(run_id)
        value: JsonObject = {"thread_id": thread_id, "run_id": run_id}
        await request.check_run(run_id, thread_id, await request.permit("threads", action, value))
        if "cancel_on_disconnect" in request.query:
            await _permit_cancel(request, thread_id, run_id)
        return None

    return rule


read_run, delete_run = _on_run("read"), _on_run("delete")


async def cancel_run(request: GuardedRequest) -> Answer:
    await _permit_cancel(request, request.path_id("thread_id"), request.path_id("run_id"))
    return None


async def _permit_cancel(request: GuardedRequest, thread_id: UUID, run_id: UUID) -> None:
    described = {"run_ids": [str(run_id)], "status": None}
    action = request.query.get("action", "interrupt")
    value: JsonObject = {"thread_id": thread_id, "action": action, "metadata": described}
    await request.check_run(run_id, thread_id, await request.permit("threads", "update", value))


async def cancel_runs(request: GuardedRequest) -> Answer:
    fields = request.fields
    thread_id = optional_uuid("thread_id", fields.get("thread_id"))
    described = {"run_ids": fields.get("run_ids"), "status": fields.get("status")}
    action = request.query.get("action", "interrupt")
    value: JsonObject = {"thread_id": thread_id, "action": action, "metadata": described}
    given = await request.permit("threads", "update", value)
    if thread_id is not None:
        await request.check_thread(thread_id, given)
    elif given:
        return error_response(403, "you may cancel the runs of some threads only: give a thread_id")
    return None


async def command(request: GuardedRequest) -> Answer:
    """A command of the protocol that starts a run is decided as any run, with the parameters as its body."""
    fields, thread_id = request.fields, request.path_id("thread_id")
    fields["params"] = params = object_in(fields.get("params") or {})
    if fields.get("method") == "run.start":
        return await _start_by_command(request, params, {}, thread_id)
    if fields.get("method") != "input.respond":
        return await read_thread(request)
    metadata = await request.metadata_of(thread_id)
    if metadata is None:
        raise ThreadNotFound(str(thread_id))
    answers = {key: params[key] for key in ("response", "responses", "update", "goto") if key in params}
    known: JsonObject = {
        "assistant_id": metadata.get("assistant_id") or metadata.get("graph_id"),
        "command": {"resume": answers.pop("responses", answers.pop("response", None)), **answers},
    }
    return await _start_by_command(request, params, known, thread_id)


async def open_socket(request: GuardedRequest) -> Answer:
    """Each command is decided by itself. The thread may be one that a command will create."""
    thread_id = request.path_id("thread_id")
    given = await request.permit("threads", "read", {"thread_id": thread_id})
    await request.check_thread(thread_id, given, may_be_new=True)
    return None


async def _start_by_command(
    request: GuardedRequest, params: JsonObject, known: JsonObject, thread_id: UUID
) -> Answer:
    """`known`: what the server adds to the parameters; it is not changed."""
    body = {**params, **known, "if_not_exists": "create"}
    given = _OF_RUN & params.keys()
    refused = await _create_run(request, body, thread_id)
    if body.get("command") != known.get("command"):
        raise HTTPException(500, "the function that authorises has changed the command, which has no effect")
    for name in given - body.keys():
        del params[name]
    params |= {name: body[name] for name in ("metadata", *(_OF_RUN - known.keys())) if name in body}
    return refused


# -- crons


async def create_cron(request: GuardedRequest) -> Answer:
    fields = request.fields
    thread_id = request.path_id("thread_id") if request.has_path("thread_id") else None
    value = _cron(request, fields, thread_id, None)
    await request.permit("crons", "create", value, frozenset({"payload"}))
    if thread_id is not None:
        given = await request.permit("threads", "read", {"thread_id": thread_id})
        await request.check_thread(thread_id, given, may_be_new=fields.get("if_not_exists") == "create")
    _write_back(fields, value, "payload")
    return await may_run(request, fields.get("assistant_id"))


async def update_cron(request: GuardedRequest) -> Answer:
    fields, cron_id = request.fields, request.path_id("cron_id")
    value = _cron(request, fields, None, cron_id)
    await _check_cron(
        request, cron_id, await request.permit("crons", "update", value, frozenset({"payload"}))
    )
    _write_back(fields, value, "payload")
    return None


def _cron(
    request: GuardedRequest, fields: JsonObject, thread_id: UUID | None, cron_id: UUID | None
) -> JsonObject:
    return {
        "cron_id": cron_id,
        "thread_id": thread_id,
        "user_id": request.user_id,
        "schedule": fields.get("schedule"),
        "end_time": fields.get("end_time"),
        "metadata": object_in(fields.get("metadata") or {}),
        "payload": {key: fields[key] for key in _OF_RUN if key in fields},
    }


def _on_cron(action: str) -> Rule:
    async def rule(request: GuardedRequest) -> Answer:
        cron_id = request.path_id("cron_id")
        await _check_cron(request, cron_id, await request.permit("crons", action, {"cron_id": cron_id}))
        return None

    return rule


read_cron, delete_cron = _on_cron("read"), _on_cron("delete")


async def _check_cron(request: GuardedRequest, cron_id: UUID, given: Filter) -> None:
    if given:
        row = await request.services.manager.crons.get(str(cron_id), user_id=request.user_id)
        if not given.matches(row.metadata):
            raise CronNotFound(str(cron_id))


_CRON_KEYS = ("assistant_id", "thread_id", "limit", "offset")
search_crons, count_crons = _search("crons", _CRON_KEYS, []), _search("crons", _CRON_KEYS, 0)


RULES: dict[tuple[str, str], Rule] = {
    **assistant_rules.RULES,
    **item_rules.RULES,
    ("POST", "/threads"): create_thread,
    ("GET", "/threads/{thread_id}"): read_thread,
    ("PATCH", "/threads/{thread_id}"): update_thread,
    ("DELETE", "/threads/{thread_id}"): delete_thread,
    ("POST", "/threads/search"): search_threads,
    ("POST", "/threads/count"): count_threads,
    ("POST", "/threads/prune"): prune_threads,
    ("POST", "/threads/{thread_id}/copy"): copy_thread,
    ("GET", "/threads/{thread_id}/stream"): read_thread,
    ("POST", "/threads/{thread_id}/commands"): command,
    ("POST", "/threads/{thread_id}/stream/events"): read_thread,
    (SOCKET, "/threads/{thread_id}/stream/events"): open_socket,
    ("GET", "/threads/{thread_id}/state"): read_thread,
    ("GET", "/threads/{thread_id}/state/{checkpoint_id}"): read_thread,
    ("POST", "/threads/{thread_id}/state/checkpoint"): read_thread,
    ("POST", "/threads/{thread_id}/state"): update_state,
    ("GET", "/threads/{thread_id}/history"): read_thread,
    ("POST", "/threads/{thread_id}/history"): read_thread,
    ("POST", "/runs"): create_run,
    ("POST", "/runs/stream"): create_run,
    ("POST", "/runs/wait"): create_run,
    ("POST", "/runs/batch"): create_batch,
    ("GET", "/runs/{run_id}"): read_run,
    ("GET", "/runs/{run_id}/join"): read_run,
    ("GET", "/runs/{run_id}/stream"): read_run,
    ("POST", "/threads/{thread_id}/runs"): create_run,
    ("POST", "/threads/{thread_id}/runs/stream"): create_run,
    ("POST", "/threads/{thread_id}/runs/wait"): create_run,
    ("GET", "/threads/{thread_id}/runs"): list_runs,
    ("GET", "/threads/{thread_id}/runs/{run_id}"): read_run,
    ("GET", "/threads/{thread_id}/runs/{run_id}/join"): read_run,
    ("GET", "/threads/{thread_id}/runs/{run_id}/stream"): read_run,
    ("POST", "/threads/{thread_id}/runs/{run_id}/cancel"): cancel_run,
    ("DELETE", "/threads/{thread_id}/runs/{run_id}"): delete_run,
    ("POST", "/runs/cancel"): cancel_runs,
    ("POST", "/runs/crons"): create_cron,
    ("POST", "/threads/{thread_id}/runs/crons"): create_cron,
    ("POST", "/runs/crons/search"): search_crons,
    ("POST", "/runs/crons/count"): count_crons,
    ("GET", "/runs/crons/{cron_id}"): read_cron,
    ("PATCH", "/runs/crons/{cron_id}"): update_cron,
    ("DELETE", "/runs/crons/{cron_id}"): delete_cron,
    ("GET", "/coordinator/runs/{run_id}/explain"): read_run,
    ("GET", "/coordinator/runs/{run_id}/receipt"): read_run,
    ("GET", "/coordinator/health"): identified,
    # These need a role that no user of such functions has.
    ("GET", "/coordinator/workers"): identified,
    ("POST", "/coordinator/drain"): identified,
    ("GET", "/metrics"): identified,
}
