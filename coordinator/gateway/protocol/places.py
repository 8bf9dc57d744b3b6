"""`seq`: the place of an event in its thread, derived from its fence and its number in the log of its run.

    seq = fence * 2**29 + number        number 0: the run has begun; the last 8: its interrupts and its end

A thread's fence grows with each run that takes it, and with each further attempt of one. JavaScript has exact
integers to 2**53: a thread of 16 million attempts, each of 500 million events.
"""

from __future__ import annotations

from typing import NamedTuple

from coordinator.errors import InvalidArgument

_BITS = 29
_MAX_FENCE = 2**33 - 1
BEGIN = 0
END = 2**_BITS - 1
MOST_INTERRUPTS = 7
"""Interrupts of a run that have places of their own; further ones share the last place."""
FIRST_INTERRUPT = END - MOST_INTERRUPTS
"""From this number on, the places of a run are made from its settled row."""


class Place(NamedTuple):
    """The order of tuples is that of the thread."""

    fence: int
    number: int

    @property
    def seq(self) -> int:
        return (self.fence << _BITS) + self.number

    @classmethod
    def of(cls, seq: int) -> Place:
        """Raises InvalidArgument for what no thread has."""
        if seq >> _BITS > _MAX_FENCE:
            raise InvalidArgument("since", "is greater than any place")
        return cls(seq >> _BITS, seq & END)


def seq_of_event(fence: int, number: int) -> int:
    return Place(fence, min(number, FIRST_INTERRUPT - 1)).seq


def seq_of_interrupt(fence: int, index: int) -> int:
    return Place(fence, FIRST_INTERRUPT + min(index, MOST_INTERRUPTS - 1)).seq
