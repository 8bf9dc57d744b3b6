"""Values that JSON can hold, as the project types them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Json: TypeAlias = Any
"""A value that JSON can hold. Any: with a recursive union every reader of a nested value, in users' code too,
would have to narrow each level."""
JsonObject: TypeAlias = dict[str, Json]
JsonMapping: TypeAlias = Mapping[str, Json]
"""A JSON object that is only read."""
