"""References to values that are stored in place of a copy of them.

The values of an assistant with the feature "state" are in a storage of its own. Small ones are copied into
the rows of its runs and threads, where lists and filters read them without the assistant. Large ones are not:
the row has a reference to the checkpoint, and the values are read through `Assistant.state`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from coordinator.assistants.ports import Assistant
from coordinator.assistants.registry import Assistants
from coordinator.assistants.sizes import size_of
from coordinator.schemas import CheckpointRef, Json, Output, User

_KEY = "__state__"
_FIELDS = ("checkpoint_id", "checkpoint_ns")
_OUTPUT = "output"


class Reference(NamedTuple):
    """The values, or the `output` of them, of a checkpoint."""

    at: CheckpointRef
    output: Output


def copied(
    assistant: Assistant, values: Json, at: CheckpointRef | None, output: Output = None, *, limit: int
) -> Json:
    """Return what rows keep of the `output` of `values`: it, or a reference to checkpoint `at` (None = the
    current state) if it occupies more than `limit` bytes in memory and the assistant has the feature
    "state". So are values that are None at a checkpoint: in a row None stands for the values as they were."""
    returned = _output_of(values, output)
    is_null = returned is None and at is not None
    if "state" not in assistant.features or (not is_null and size_of(returned, limit=limit) <= limit):
        return returned
    ref = at or CheckpointRef()
    held: dict[str, Json] = {"checkpoint_id": ref.checkpoint_id, "checkpoint_ns": ref.checkpoint_ns}
    if output is not None:
        held[_OUTPUT] = output if isinstance(output, str) else list(output)
    return {_KEY: held}


def _output_of(values: Json, output: Output) -> Json:
    if output is None or not isinstance(values, Mapping):
        return values
    fields = cast("Mapping[str, Json]", values)
    if isinstance(output, str):
        return fields.get(output)
    return {name: fields[name] for name in output if name in fields}


def referenced(stored: Json) -> Reference | None:
    """Return what a row refers to in place of values; None if it has the values themselves."""
    fields = _only(stored, _KEY)
    if fields is None or not isinstance(held := fields[_KEY], Mapping):
        return None
    named = _only(held, *_FIELDS) or _only(held, *_FIELDS, _OUTPUT)
    if named is None:
        return None
    checkpoint_id, namespace = (named[name] for name in _FIELDS)
    if not isinstance(namespace, str) or not isinstance(checkpoint_id, (str, type(None))):
        return None
    output: Json = named.get(_OUTPUT)
    if isinstance(output, Sequence) and not isinstance(output, str):
        output = tuple(map(str, cast("Sequence[Json]", output)))
    elif not isinstance(output, (str, type(None))):
        return None
    return Reference(CheckpointRef(checkpoint_id, namespace), output)


def _only(value: Json, *names: str) -> Mapping[str, Json] | None:
    """Return the value if it is an object with these keys and no others."""
    if not isinstance(value, Mapping):
        return None
    fields = cast("Mapping[str, Json]", value)
    return fields if len(fields) == len(names) and all(name in fields for name in names) else None


async def dereferenced(
    assistants: Assistants,
    assistant_id: str | None,
    thread_id: str,
    stored: Json,
    *,
    user_id: str | None,
    current: bool = False,
) -> Json:
    """Return the values that a row has or refers to. `current`: those of the thread now, whatever checkpoint
    the row refers to. None if the checkpoint does not exist any more, or this worker does not have the
    assistant. Raises what the assistant raises."""
    if (ref := referenced(stored)) is None:
        return stored
    assistant = assistants.get(assistant_id)
    if assistant is None or "state" not in assistant.features:
        return None
    at = None if current or ref.at == CheckpointRef() else ref.at
    view = await assistant.state(thread_id, at, user=None if user_id is None else User(user_id))
    return None if view is None else _output_of(view.values, ref.output)
