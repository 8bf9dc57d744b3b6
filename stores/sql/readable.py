"""Rows that cannot be read, because they are damaged or of a newer program: lists skip and count them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

from stores.sql.columns import Column, Columns

logger = logging.getLogger(__name__)

_REMEMBERED = 1000
_unreadable = set[tuple[str, str]]()

Read = TypeVar("Read")


def readable(what: str, rows: Iterable[Columns], read: Callable[[Column], Read]) -> list[Read]:
    """The rows that `read` can map, in order: one row must not hide the others. Each of the first thousand
    rows that are skipped is logged once in the life of the process, as `what` and its first column."""
    mapped = list[Read]()
    for row in rows:
        try:
            mapped.append(read(row))
        except (KeyError, TypeError, ValueError) as error:
            _skipped(what, str(row[0]), error)
    return mapped


def _skipped(what: str, key: str, error: Exception) -> None:
    if (what, key) in _unreadable or len(_unreadable) >= _REMEMBERED:
        return
    _unreadable.add((what, key))
    logger.warning("%s %r cannot be read and is left out of lists: %s", what, key, error)


def unreadable_rows() -> int:
    """How many different rows this process has skipped; counts up to a thousand."""
    return len(_unreadable)
