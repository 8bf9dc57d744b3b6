"""What columns of the type jsonb accept: no NaN, no infinities, no U+0000, no lone surrogates."""

from __future__ import annotations

import json
import math
import re
from typing import cast

_REFUSED = re.compile("\0|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]")


def accepts(value: object) -> bool:
    """Whether jsonb can hold this value as it is: None, a bool, a number or a text."""
    if isinstance(value, str):
        return _REFUSED.search(value) is None
    return value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def dumps(value: object) -> str:
    """JSON that jsonb accepts: characters that it refuses are left out of texts, as LangGraph does with
    U+0000; a number that is not finite is null. Raises TypeError for a value that has no JSON."""
    text = json.dumps(value)
    if not any(mark in text for mark in ("\\u0000", "\\ud", "NaN", "Infinity")):
        return text
    return json.dumps(_accepted(json.loads(text)))


def _accepted(value: object) -> object:
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return {_REFUSED.sub("", key): _accepted(item) for key, item in items}
    if isinstance(value, list):
        return [_accepted(item) for item in cast("list[object]", value)]
    if isinstance(value, str):
        return _REFUSED.sub("", value)
    return value if accepts(value) else None
