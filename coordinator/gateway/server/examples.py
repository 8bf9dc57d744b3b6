"""Builds an example request for a server: an assistant, and input that is valid for its schema.

Only of functions: the schema of a graph's state does not show what its nodes need, and a factory is not
called for an example.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import cast

from coordinator.assistants.function import FunctionAssistant
from coordinator.assistants.ports import Assistant
from coordinator.assistants.registry import Assistants
from stores.json_values import Json, JsonObject

logger = logging.getLogger("coordinator.serve")

_MAX_CHARACTERS = 1000

_EMPTY: JsonObject = {
    "string": "hello",
    "integer": 1,
    "number": 1,
    "boolean": True,
    "array": [],
    "object": {},
    "null": None,
}


async def example_for(assistants: Assistants, names: Iterable[str]) -> JsonObject:
    """Returns the body of a `POST /runs/wait` for the first of `names` that is registered; without `input` if
    none is known to be valid."""
    for name in names:
        if (assistant := assistants.get(name)) is not None:
            if not isinstance(assistant, FunctionAssistant):
                return {"assistant_id": name}
            return {"assistant_id": name, "input": await _input_for(assistant)}
    return {"assistant_id": "NAME", "input": {}}


async def _input_for(assistant: Assistant) -> Json:
    """Returns {} if the assistant cannot be described or its example is too long. Never raises, because a
    server starts without an example as well."""
    try:
        example = _input((await assistant.describe()).input_schema)
        return example if len(json.dumps(example)) <= _MAX_CHARACTERS else {}
    except Exception:
        logger.exception("an assistant cannot be described; the example request has no input")
        return {}


def _input(schema: Json) -> Json:
    """Returns the first example of `schema`, else an object with its required properties."""
    if not isinstance(schema, dict):
        return {}
    typed = cast("JsonObject", schema)
    if examples := typed.get("examples"):
        return examples[0]
    properties, definitions = typed.get("properties", {}), typed.get("$defs", {})
    return {name: _value(properties.get(name, {}), definitions) for name in typed.get("required", ())}


def _value(schema: JsonObject, definitions: JsonObject) -> Json:
    schema = definitions.get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
    for keyword in ("default", "const"):
        if keyword in schema:
            return schema[keyword]
    for choices in ("examples", "enum"):
        if schema.get(choices):
            return schema[choices][0]
    if schema.get("anyOf"):
        return _value(schema["anyOf"][0], definitions)
    return (
        _input({**schema, "$defs": definitions})
        if schema.get("required")
        else _EMPTY.get(schema.get("type", ""), {})
    )
