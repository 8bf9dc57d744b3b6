"""From a run's request to the arguments of a graph: input, command, config, context."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast
from uuid import UUID, uuid5

from langgraph.types import Command as GraphCommand
from langgraph.types import Send

from coordinator.assistants.configured import client_assistant
from coordinator.assistants.registry import NAMESPACE
from coordinator.assistants.requests import cleaned
from coordinator.context import RunContext
from coordinator.errors import InvalidArgument
from coordinator.langgraph.contexts import Preset
from coordinator.langgraph.graph import Graph
from coordinator.langgraph.runtime import AuthenticatedUser
from coordinator.schemas import CheckpointRef, Command, Json, RunRequest, User
from stores.json_values import JsonObject

END, COPY = "__end__", "__copy__"
_STRICT_RESUME = "__pregel_strict_resume"
_CHECKPOINT_KEYS = ("checkpoint_id", "checkpoint_ns", "checkpoint_map")


def run_config(ctx: RunContext, request: RunRequest | None, name: str, preset: Preset) -> JsonObject:
    """Return the config of a run, or of an operation (`request` is None). The keys of the server replace
    those of the client, which could otherwise write to another thread."""
    client = RunRequest() if request is None else cleaned(request)
    config = preset.config_of(client)
    thread_id, run_id = ctx.run.thread_id, ctx.run.run_id
    assistant_id = client_assistant(ctx.run.metadata) or assistant_uuid(ctx.run.assistant_id or name)
    config["configurable"] |= {
        "thread_id": thread_id,
        "run_id": run_id,
        "graph_id": name,
        "assistant_id": assistant_id,
        **_user_keys(ctx.user),
    }
    if request is not None and request.strict_resume:
        config["configurable"][_STRICT_RESUME] = True
    if request is not None and request.checkpoint is not None:
        config["configurable"] |= _checkpoint_keys(request.checkpoint)
    # The checkpoints of a run carry this id: by it the engine recognises a run that continues.
    own = {"run_id": run_id, "graph_id": name, "assistant_id": assistant_id}
    metadata = cast("JsonObject", client.metadata or {})
    config["metadata"] = {**config["metadata"], **metadata, **own}
    if (trace_id := as_uuid(run_id)) is not None and request is not None:
        config["run_id"] = trace_id
    return config


def at(thread_id: str, ref: CheckpointRef | None, namespace: str = "") -> JsonObject:
    """Return the config that reads a state."""
    keys = {"thread_id": thread_id, "checkpoint_ns": namespace}
    return {"configurable": keys | ({} if ref is None else _checkpoint_keys(ref, namespace))}


def without_checkpoint(config: JsonObject) -> JsonObject:
    """Return the config of the same run, from the current state of the thread."""
    keys = {key: value for key, value in config["configurable"].items() if key not in _CHECKPOINT_KEYS}
    return {**config, "configurable": keys}


def _checkpoint_keys(ref: CheckpointRef, namespace: str = "") -> JsonObject:
    keys: JsonObject = {"checkpoint_ns": ref.checkpoint_ns or namespace}
    if ref.checkpoint_id is not None:
        keys["checkpoint_id"] = ref.checkpoint_id
    if ref.checkpoint_map is not None:
        keys["checkpoint_map"] = ref.checkpoint_map
    return keys if ref != CheckpointRef() else {}


def _user_keys(user: User | None) -> JsonObject:
    if user is None:
        return {}
    return {
        "user_id": user.user_id,
        "langgraph_auth_user": AuthenticatedUser(user),
        "langgraph_auth_user_id": user.user_id,
        "langgraph_auth_permissions": list(user.permissions),
    }


def assistant_uuid(assistant_id: str) -> str:
    """Return the UUID of an assistant, which is given by name or by UUID."""
    return assistant_id if as_uuid(assistant_id) is not None else str(uuid5(NAMESPACE, assistant_id))


def as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


# -- commands


def graph_command(command: Command) -> GraphCommand[Json]:
    goto = [_target(one) for one in gotos(command)]
    return GraphCommand(resume=command.resume, update=_update_of(command.update), goto=goto)


def _target(goto: Json) -> Json:
    if not isinstance(goto, dict):
        return goto
    send = cast("JsonObject", goto)
    return Send(send["node"], send.get("input"))


def is_null_answer(command: Command) -> bool:
    return command.resume is None and not command.update and not gotos(command)


def gotos(command: Command | None) -> list[Json]:
    """Return the targets of a command: names of nodes, or `{"node": …, "input": …}`."""
    goto = None if command is None else command.goto
    if goto is None:
        return []
    return cast("list[Json]", goto) if isinstance(goto, list) else [goto]


def _update_of(update: Json) -> Json:
    """JSON has no tuples: a list of pairs is an update of several keys."""
    if not isinstance(update, list):
        return update
    pairs = cast("list[Json]", update)
    return [tuple(pair) for pair in pairs] if all(map(_is_pair, pairs)) else pairs


def _is_pair(value: Json) -> bool:
    return isinstance(value, list) and len(cast("list[Json]", value)) == 2 and isinstance(value[0], str)


# -- validation


def validate(request: RunRequest, graph: Graph | None, preset: Preset) -> None:
    """Check what would only fail within the run. `graph`: None if it is not known before the run. Raises
    InvalidArgument."""
    _check_config(request.config)
    _check_checkpoint(request.checkpoint)
    if graph is None:
        return
    nodes = frozenset(graph.nodes)
    for name, listed in (
        ("interrupt_before", request.interrupt_before),
        ("interrupt_after", request.interrupt_after),
    ):
        _check_nodes(name, () if listed in (None, "*") else listed, nodes)
    _check_nodes("command", _targets(request.command), nodes | {END})
    if request.input is not None and request.command is None and _takes_objects(graph):
        _check_input(request.input)
    preset.context_of(cleaned(request)).check(graph)


def _check_checkpoint(ref: CheckpointRef | None) -> None:
    if ref is not None and ref.checkpoint_id is not None and as_uuid(ref.checkpoint_id) is None:
        raise InvalidArgument("checkpoint_id", f"must be the UUID of a state, not {ref.checkpoint_id!r:.100}")


def _check_nodes(field: str, names: Iterable[Json], nodes: frozenset[str]) -> None:
    for name in names:
        if name not in nodes:
            raise InvalidArgument(
                field, f"there is no node {name!r:.100}; the nodes are {', '.join(sorted(nodes))}"
            )


def _targets(command: Command | None) -> Iterator[Json]:
    for target in gotos(command):
        if isinstance(target, dict) and "node" not in target:
            raise InvalidArgument("command", 'goto must name nodes: "node", or {"node": …, "input": …}')
        yield target["node"] if isinstance(target, dict) else target


def _check_config(config: Json) -> None:
    if config is None:
        return
    if not isinstance(config, Mapping):
        raise InvalidArgument("config", "must be an object")
    given = cast("Mapping[str, Json]", config)
    for key in ("recursion_limit", "max_concurrency"):
        value = given.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InvalidArgument("config", f"{key} must be a positive integer")
    for key, kind in (("configurable", Mapping), ("metadata", Mapping), ("tags", Sequence)):
        value = given.get(key)
        if value is not None and (not isinstance(value, kind) or isinstance(value, str)):
            raise InvalidArgument("config", f"{key} must be {'a list' if kind is Sequence else 'an object'}")


def _takes_objects(graph: Graph) -> bool:
    """A state graph takes an object; the input of an `@entrypoint` is whatever its function takes."""
    return hasattr(graph, "builder") and "__root__" not in graph.channels


def _check_input(value: Json) -> None:
    if not isinstance(value, Mapping):
        raise InvalidArgument("input", f"must be an object, not {type(value).__name__}")
