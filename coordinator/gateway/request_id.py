"""The id of the current request, which is added to its response and to every log record of it."""

from __future__ import annotations

import logging
import re
from contextvars import ContextVar

from coordinator.ids import random_hex

HEADER = "x-request-id"

_WELL_FORMED = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

current: ContextVar[str | None] = ContextVar("request_id", default=None)
"""None outside of a request. A run keeps the id of the request that has started it."""


def request_id(client_id: str | None) -> str:
    """Returns the client's id if it is well-formed, else a new one."""
    if client_id is not None and _WELL_FORMED.fullmatch(client_id):
        return client_id
    return random_hex()


class AddRequestId(logging.Filter):
    """A filter for handlers that sets `request_id` on each record of a request."""

    def filter(self, record: logging.LogRecord) -> bool:
        if (value := current.get()) is not None:
            record.request_id = value
        return True
