"""The id of the request that is being answered: in its answer, and in every line that is logged for it."""

from __future__ import annotations

import logging
import re
from contextvars import ContextVar
from uuid import uuid4

HEADER = "x-request-id"

_WELL_FORMED = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

current: ContextVar[str | None] = ContextVar("request_id", default=None)
"""None outside of a request. A run that a request began goes on under that request's id."""


def request_id(given: str | None) -> str:
    """The client's own where it is one line of plain characters, else a new one."""
    if given is not None and _WELL_FORMED.fullmatch(given):
        return given
    return uuid4().hex


class InLogs(logging.Filter):
    """For a handler: gives each record that is logged for a request its `request_id`."""

    def filter(self, record: logging.LogRecord) -> bool:
        if (name := current.get()) is not None:
            record.request_id = name
        return True
