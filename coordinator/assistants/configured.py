"""Runs of assistants that clients created: their configuration, and their ids in the metadata of runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from coordinator.assistants.registry import Assistants
from coordinator.schemas import Json, RunRequest
from stores.assistants import AssistantRow
from stores.json_values import JsonMapping, JsonObject

VERSION = "assistant_version"
"""Key in the metadata of runs that only the server sets: the run is of an assistant that a client created,
whose id is at the key `assistant_id`."""


def client_assistant(metadata: JsonMapping) -> str | None:
    """Returns the id of the created assistant of a run; None if it is of a registered one."""
    return metadata.get("assistant_id") if VERSION in metadata else None


def with_assistant_of(metadata: JsonMapping, run: JsonMapping) -> JsonObject:
    """Returns `metadata` with the keys of the created assistant that are in the metadata of a run, if any."""
    kept = {key: value for key, value in metadata.items() if key != VERSION}
    return kept if VERSION not in run else {**kept, **{key: run[key] for key in ("assistant_id", VERSION)}}


def keys_of_thread(assistants: Assistants, name: str, run: JsonMapping) -> dict[str, str]:
    """Returns the keys that a run of the assistant adds to the metadata of its thread. `run`: its
    metadata."""
    assistant_id = client_assistant(run) or assistants.id_of(name)
    return {"graph_id": assistants.graph_of(name), "assistant_id": assistant_id}


def of_new_thread(run: JsonMapping, keys: Mapping[str, str]) -> JsonObject | None:
    """Returns the metadata of a thread that a run creates: that of the run, and `keys`, which win. None =
    `keys` alone."""
    inherited = {key: value for key, value in run.items() if key != VERSION}
    return None if inherited.keys() <= keys.keys() else {**inherited, **keys}


def configured(request: RunRequest, assistant: AssistantRow) -> RunRequest:
    """Adds the configuration of the assistant to a cleaned request, which takes precedence key by key; tags
    are added. A request with `configurable` alone, as older clients send it, has no context."""
    own, given = assistant.config, cast("JsonObject", request.config or {})
    config: JsonObject = {**own, **given}
    for key in ("metadata", "configurable"):
        if key in own or key in given:
            config[key] = {**(own.get(key) or {}), **(given.get(key) or {})}
    if own.get("tags") and given.get("tags"):
        config["tags"] = [*own["tags"], *given["tags"]]
    context = _context(request, assistant, given)
    if assistant.context and context is None:
        config["configurable"] = {**assistant.context, **config["configurable"]}
    metadata = {
        **cast("JsonObject", request.metadata or {}),
        "assistant_id": assistant.assistant_id,
        VERSION: assistant.version,
    }
    return replace(request, config=config or None, context=context, metadata=metadata)


def _context(request: RunRequest, assistant: AssistantRow, given: JsonObject) -> Json:
    context = cast("object", request.context)
    if isinstance(context, Mapping):
        own = assistant.context or assistant.config.get("configurable") or {}
        return {**own, **cast("JsonMapping", context)}
    if context is not None or given.get("configurable"):
        return context
    return assistant.context or None
