"""What a client may ask of an assistant, and what only the server says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from coordinator.schemas import Json, RunRequest

_IDENTITY = frozenset({"thread_id", "run_id", "assistant_id", "graph_id", "user_id", "request_id"})
_PREFIXES = ("__", "langgraph_", "coordinator_", "checkpoint_")
"""Of engines for themselves, of other servers for who the user is and what he may, and ours."""
_WIRING = frozenset({"run_id", "thread_id", "callbacks", "store", "checkpointer"})
"""What a config is wired with: objects of the process."""
_SPEAKER = frozenset({"user_id", "thread_id"})
"""Of a context: an assistant may take them for what the server says. That is in `ctx.user` and `ctx.run`."""
_STAMPED = frozenset({"run_id"})
"""Of metadata: an engine finds by it what a run wrote, to undo it."""


def cleaned(request: RunRequest) -> RunRequest:
    """Without the keys of `config`, `context` and `metadata` that are the server's to set. Called before a
    request is stored: with them a client would have an engine write on another thread, or for another user.

    What an assistant defines for itself (`config.configurable`, `context`) stays, and so do tags, limits
    and names. A checkpoint is of the thread that the run is on, whatever the client says. Keys are compared
    without regard to case, because some readers of a configuration do the same.
    """
    return replace(
        request,
        config=_config(request.config),
        context=_without(request.context, _SPEAKER, ("__", "langgraph_", "coordinator_")),
        metadata=_without(request.metadata, _STAMPED, ("__",)),
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
    """`keys` and `prefixes` are in lower case."""
    if not isinstance(value, Mapping):
        return value
    fields = cast("Mapping[str, Json]", value)
    return {key: item for key, item in fields.items() if not _matches(key.casefold(), keys, prefixes)}


def _matches(key: str, keys: frozenset[str], prefixes: tuple[str, ...]) -> bool:
    return key in keys or key.startswith(prefixes)
