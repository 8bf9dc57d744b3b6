"""Finished runs in memory: bounded by time, number and bytes."""

from __future__ import annotations

import json
from collections import OrderedDict

from coordinator.assistants.sizes import size_of
from coordinator.schemas import Json

SMALL = 4096
"""Bytes. A larger result is read from its row each time, which costs less than keeping it."""
_IMMUTABLE = frozenset((type(None), bool, int, float, str))
_POSTPONED = 1.0  # s


class _Foreign(TypeError):
    """A value that may differ when it is read back from its row."""


def _copied(value: Json) -> Json:
    """Returns a copy that shares nothing mutable. Raises _Foreign for types other than those of JSON."""
    kind = value.__class__
    if kind in _IMMUTABLE:
        return value
    if kind is dict:
        for key in value:  # any() would take a third of the time of a small result
            if key.__class__ is not str:
                raise _Foreign
        return {key: item if item.__class__ in _IMMUTABLE else _copied(item) for key, item in value.items()}
    if kind is list:
        return [_copied(item) for item in value]
    raise _Foreign


class Result:
    """The result of a run, for callers on the worker that ran it."""

    __slots__ = ("_value", "dropped")

    def __init__(self, value: Json, *, paused: bool = False) -> None:
        """`value` was stored, so it is JSON. `paused`: the row has more fields to return."""
        self.dropped = paused or (value is not None and size_of(value, limit=SMALL) > SMALL)
        """Only its row has it."""
        try:
            self._value = None if self.dropped else _copied(value)
        except _Foreign:
            self._value = json.loads(json.dumps(value))

    def load(self) -> Json:
        """Returns the result as its row has it; a copy for each caller, which may change it."""
        return _copied(self._value)


class Finished:
    """Ids of finished runs until they expire; those of temporary threads are kept apart. `most`: maximal
    number of each kind; `most_bytes`: maximal size of all values, None = unbounded."""

    def __init__(self, most: int, most_bytes: int | None) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._due: tuple[OrderedDict[str, float], OrderedDict[str, float]] = (OrderedDict(), OrderedDict())
        self._sizes: dict[str, int] = {}
        self.bytes = 0
        """Approximate size of all values."""

    def __len__(self) -> int:
        return sum(map(len, self._due))

    def add(self, run_id: str, due: float, *values: object, temporary: bool) -> None:
        self.remove(run_id)
        self._due[0 if temporary else 1][run_id] = due
        if self._most_bytes is not None:
            size = self._sizes[run_id] = size_of(*values)
            self.bytes += size

    def remove(self, run_id: str) -> bool:
        """Returns whether the run was kept."""
        for due in self._due:
            if run_id in due:
                del due[run_id]
                self.bytes -= self._sizes.pop(run_id, 0)
                return True
        return False

    def postpone(self, run_id: str, now: float) -> bool:
        """Postpones the expiry of the run. Returns False if it has to be evicted because a bound is
        exceeded."""
        for due in self._due:
            if run_id in due and due[run_id] <= now:
                due[run_id] = now + _POSTPONED
                due.move_to_end(run_id)
                return True
        return False

    def next_expired(self, now: float) -> str | None:
        """Returns the oldest run that has expired or exceeds a bound, or None. The caller must remove it."""
        full = self._most_bytes is not None and self.bytes > self._most_bytes
        for due in self._due:
            for run_id in due:
                if full or due[run_id] <= now or len(due) > self._most:
                    return run_id
                break
        return None
