"""The heartbeat connection of a SQLite store: it renews leases from a separate thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from stores import gate as gates
from stores.errors import StoreReplaced
from stores.group_commit import as_store_error
from stores.lock_watch import LockWatch
from stores.sql.sqlite import workers
from stores.sql.sqlite.durability import make_durable
from stores.store_files import keep_log


class SQLiteHeart:
    """Must be created and used in one thread. It acquires the same gate as the writer of this process, before
    it, and waits for SQLite's own lock for at most `patience` s."""

    def __init__(
        self,
        path: Path,
        *,
        synchronous: str,
        patience: float,
        clock: Callable[[], int],
        worker_id: Callable[[int], str | None],
        check: Callable[[], None],
        watch: LockWatch,
    ) -> None:
        """`worker_id` returns the worker id with which an epoch was registered. `check` is called before each
        transaction, and raises if the transaction must not be executed."""
        self._clock, self._worker_id, self._check, self._watch = clock, worker_id, check, watch
        try:
            cx = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=patience, isolation_level=None
            )
            try:
                make_durable(cx, synchronous)
                self._gate = gates.gate_of(path)
            except BaseException:
                cx.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise as_store_error(error) from error
        self._cx = cx

    def beat(self, epoch: int) -> bool:
        """See `stores.base.Heart`."""
        cx = self._cx
        try:
            if self._gate is not None:
                self._gate.renew()
            writing = nullcontext() if self._gate is None else self._gate.writing(first=True)
            with self._watch.waiting("heartbeat"), writing:
                self._check()
                cx.execute("BEGIN IMMEDIATE")
                self._watch.granted("heartbeat")
                try:
                    alive = workers.beat(cx, self._clock(), epoch, self._worker_id(epoch))
                    cx.execute("COMMIT")
                except BaseException:
                    if cx.in_transaction:
                        cx.execute("ROLLBACK")
                    raise
        except (sqlite3.Error, OSError) as error:
            raise self._watch.error_of(error) from error
        return alive

    def close(self) -> None:
        gate, self._gate = self._gate, None
        try:
            self._check()
        except StoreReplaced:
            keep_log(self._cx)
        self._cx.close()
        if gate is not None:
            gates.release(gate)
