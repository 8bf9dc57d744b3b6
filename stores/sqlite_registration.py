"""A worker is registered in a SQLite file together with its proof of life in the gate file."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace

from stores.errors import StoreInUse
from stores.gate import FileGate
from stores.rows import NewWorker
from stores.sql.sqlite import workers


class Registration:
    """One transaction, and what is done when it is over."""

    def __init__(self, gate: FileGate, worker: NewWorker) -> None:
        self._gate = gate
        self._worker = replace(worker, proof=gate.token)
        self._issued = list[int]()

    def run(self, cx: sqlite3.Connection, now: int) -> int | StoreInUse:
        """The epoch. A refusal is returned and not raised, so that the bound on leases is committed."""
        while self._issued:  # run again: what was issued before was rolled back
            self._gate.dead(self._issued.pop())
        workers.bound_leases(cx, now)
        try:
            self._issued.append(workers.register(cx, now, self._worker))
        except StoreInUse as refusal:
            return refusal
        epoch = self._issued[0]
        self._gate.live(epoch)  # before the row can be seen: no peer may find it without its proof of life
        return epoch

    def over(self, outcome: asyncio.Future[int | StoreInUse]) -> None:
        """The number of a registration that failed is issued again, perhaps to another process."""
        if self._issued and (outcome.cancelled() or outcome.exception() is not None):
            self._gate.dead(self._issued[0])
