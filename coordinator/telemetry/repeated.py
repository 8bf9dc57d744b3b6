"""Levels at which failures of work that is retried are logged."""

from __future__ import annotations

import logging

from coordinator.errors import StoreReplaced


def level_of_failure(error: BaseException) -> int:
    """Returns WARNING; DEBUG for StoreReplaced, which the store logs by itself once a minute."""
    return logging.DEBUG if isinstance(error, StoreReplaced) else logging.WARNING


class Repeated:
    """The failures of one periodic piece of work: one that repeats is logged once."""

    def __init__(self) -> None:
        self._logged = ""

    def level_of(self, error: BaseException) -> int:
        """As `level_of_failure`; DEBUG if the last failure since `succeeded` had the same text."""
        text = str(error)
        repeated, self._logged = text == self._logged, text
        return logging.DEBUG if repeated else level_of_failure(error)

    def succeeded(self) -> None:
        self._logged = ""
