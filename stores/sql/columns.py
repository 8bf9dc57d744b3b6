"""What drivers return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Column: TypeAlias = Any
"""The value of a column. Any: only the statement, and the function that maps its rows, know its type."""
Columns: TypeAlias = Sequence[Column]
"""One row, in the order of the statement's columns."""
Convert: TypeAlias = Callable[[Column], Column]
"""Maps a value to a column or back."""
