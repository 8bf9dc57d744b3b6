"""A request to try a server with: its first assistant, and input that fits the assistant's schema."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import Any, cast

from coordinator.assistants.ports import Assistant
from coordinator.assistants.registry import Assistants

logger = logging.getLogger("coordinator.serve")

_LONGEST = 1000
"""Characters."""

_EMPTY: dict[str, Any] = {
    "string": "hello",
    "integer": 1,
    "number": 1,
    "boolean": True,
    "array": [],
    "object": {},
    "null": None,
}


async def example_for(assistants: Assistants, names: Iterable[str]) -> dict[str, Any]:
    """The body of a `POST /runs/wait`; for the first of `names` that is registered."""
    for name in names:
        if (found := assistants.get(name)) is not None:
            return {"assistant_id": name, "input": await _input_for(found)}
    return {"assistant_id": "NAME", "input": {}}


async def _input_for(assistant: Assistant) -> Any:
    """Nothing where its description or its schema is of no use: a server starts without an example, too."""
    try:
        example = _input((await assistant.describe()).input_schema)
        return example if len(json.dumps(example)) <= _LONGEST else {}
    except Exception:
        logger.exception("an assistant cannot be described")
        return {}


def _input(schema: Any) -> Any:
    """Whatever is required, with a value of its type; else the first example that the schema has."""
    if not isinstance(schema, dict):
        return {}
    known = cast("dict[str, Any]", schema)
    if examples := known.get("examples"):
        return examples[0]
    properties, definitions = known.get("properties", {}), known.get("$defs", {})
    return {name: _value(properties.get(name, {}), definitions) for name in known.get("required", ())}


def _value(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    schema = definitions.get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
    for known in ("default", "const"):
        if known in schema:
            return schema[known]
    for several in ("examples", "enum"):
        if schema.get(several):
            return schema[several][0]
    if schema.get("anyOf"):
        return _value(schema["anyOf"][0], definitions)
    return (
        _input({**schema, "$defs": definitions})
        if schema.get("required")
        else _EMPTY.get(schema.get("type", ""), {})
    )
