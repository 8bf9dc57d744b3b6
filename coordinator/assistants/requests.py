"""Removal of server-controlled keys from client requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from coordinator.schemas import Json, RunRequest

_IDENTITY = frozenset({"thread_id", "run_id", "assistant_id", "graph_id", "user_id", "request_id"})
_PREFIXES = ("__", "langgraph_", "coordinator_", "checkpoint_")
"""Internal keys of engines, user and permission keys of other servers, and ours."""
_WIRING = frozenset({"run_id", "thread_id", "callbacks", "store", "checkpointer"})
"""Config keys that hold objects of the process."""
_CONTEXT_IDENTITY = frozenset({"user_id", "thread_id"})
"""Context keys that an assistant could mistake for identities; the real ones are in `ctx.user` and
`ctx.run`."""
_RESERVED_METADATA = frozenset({"run_id", "assistant_version"})
"""Metadata keys by which an engine selects the writes of a run to undo, and by which runs of assistants that
clients created are recognised (`configured`)."""


def cleaned(request: RunRequest) -> RunRequest:
    """Remove the keys of `config`, `context` and `metadata` that only the server may set. Called before a
    request is stored: with these keys a client could make an engine write to another thread or for another
    user.

    Keys defined by the assistant (`config.configurable`, `context`), tags, limits and names stay. A
    checkpoint always refers to the run's own thread. Keys are compared case-insensitively, because some
    consumers of configurations do the same.
    """
    return replace(
        request,
        config=_config(request.config),
        context=_without(request.context, _CONTEXT_IDENTITY, ("__", "langgraph_", "coordinator_")),
        metadata=_without(request.metadata, _RESERVED_METADATA, ("__",)),
    )


def _config(config: Json) -> Json:
    kept = _without(config, _WIRING, ("__",))
    if not isinstance(kept, dict):
        return kept
    fields = dict(cast("dict[str, Json]", kept))
    if "configurable" in fields:
        fields["configurable"] = _without(fields["configurable"], _IDENTITY, _PREFIXES)
    if "metadata" in fields:
        fields["metadata"] = _without(fields["metadata"], _IDENTITY, _PREFIXES)
    return fields


def _without(value: Json, keys: frozenset[str], prefixes: tuple[str, ...]) -> Json:
    """Case-insensitive; `keys` and `prefixes` are in lower case."""
    if not isinstance(value, Mapping):
        return value
    fields = cast("Mapping[str, Json]", value)
    return {key: item for key, item in fields.items() if not _matches(key.casefold(), keys, prefixes)}


def _matches(key: str, keys: frozenset[str], prefixes: tuple[str, ...]) -> bool:
    return key in keys or key.startswith(prefixes)
