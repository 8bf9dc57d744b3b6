"""The tests' one door to the inside of stores; see `inside`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable, Collection, Sized

    import asyncpg

    from coordinator import MemoryRunStore
    from stores.fair_queue import FairQueue
    from stores.gate import FileGate
    from stores.group_commit import GroupCommit
    from stores.plain import PlainStore
    from stores.postgres import PostgresStore
    from stores.sqlite import SQLiteStore
    from stores.sqlite_thread import ThreadConnection

# -- SQLite


def connection_of(owner: Any) -> sqlite3.Connection:
    """Returns the SQLite connection of a store in memory, or of a heart."""
    return owner._cx


def writer_of(store: SQLiteStore) -> ThreadConnection:
    """Returns the connection that all writes go through."""
    writer = store._writer
    assert writer is not None, "the store is closed"
    return writer


def gate_pid(store: SQLiteStore) -> int | None:
    """Returns the pid of the other process that holds the store's gate."""
    assert store._gate is not None, "the store is closed"
    return store._gate.writer_pid()


def reader_of(store: SQLiteStore) -> ThreadConnection:
    """Returns the connection that short reads go through."""
    reader = store._reader
    assert reader is not None, "the store is closed"
    return reader


def break_reads_of_one_row(store: SQLiteStore, instead: sqlite3.Connection) -> None:
    """Closes the connection that reads one row from the event loop, and puts another in its place."""
    replaced, store._glance = store._glance, instead
    assert replaced is not None, "the store is closed"
    replaced.close()


def connect_to(store: SQLiteStore) -> sqlite3.Connection:
    """Returns one more connection to the store's file, set up as the store's own. The caller closes it."""
    return store._connect()


def write_of(store: Any) -> Callable[..., Awaitable[Any]]:
    """Returns the method that executes `transaction(cx, now, *args)` as one commit."""
    return store._write


def search_of(store: Any) -> Callable[..., Awaitable[Any]]:
    """Returns the method by which searches read: bounded in time, and fair between users."""
    return store._search


def rows_of(store: MemoryRunStore) -> dict[str, dict[str, Any]]:
    """Returns the rows that this store has kept, by run id: the dict itself, not a copy."""
    return store._runs


def open_gates() -> Collection[object]:
    """Returns the gates of files that this process holds open."""
    from stores import gate

    return gate._open


def descriptor_of(gate: FileGate) -> int:
    """Returns the file descriptor of the gate's file."""
    return gate._fd


def urgent_transactions_of(commits: GroupCommit) -> Sized:
    """Returns the urgent transactions that wait for the next commit."""
    return commits._urgent


def arrivals_in(store: PlainStore) -> Collection[str]:
    """Returns the threads of which an admission is under way."""
    return store._beside.arriving


# -- PostgreSQL


def pool_of(store: PostgresStore) -> Any:
    """Returns the pool of the calls that may wait."""
    return store._waiting


def urgent_pool_of(store: PostgresStore) -> Any:
    """Returns the pool of the cancels."""
    return store._urgent


def batch_pool_of(store: PostgresStore) -> Any:
    """Returns the pool of the batches."""
    return store._batches


def waiters_of(queue: FairQueue, user_id: str) -> int:
    """Returns how many searches of this user wait for a place."""
    return len(queue._waiting[user_id])


def sessions_of(store: PostgresStore) -> int:
    """Returns how many sessions the pool of the calls that may wait has open."""
    pool: asyncpg.Pool[Any] | None = pool_of(store)._pool
    return 0 if pool is None else pool.get_size()


def silence_of(store: PostgresStore) -> Any:
    """Returns what finds calls without an answer in the pool of the calls that may wait."""
    return pool_of(store)._silence


def after_examinations_in(store: PostgresStore, act: Callable[[list[int], set[int]], object]) -> None:
    """Calls `act` with the silent backends of the pool, and those of them that execute a call, each
    time after the pool has examined them."""
    silence = pool_of(store)._silence
    at_work = silence._at_work

    async def acting(backends: list[int]) -> set[int]:
        busy: set[int] = await at_work(backends)
        act(backends, busy)
        return busy

    silence._at_work = acting


async def connect_as(store: PostgresStore, **arguments: Any) -> asyncpg.Connection[Any]:
    """Returns a connection of its own to the store's server. The caller closes it."""
    return await store._hosts.connect(**arguments)


def options_of(store: PostgresStore) -> Any:
    """Returns the options that the store was made with."""
    return store._options


def dedicated_connections() -> int:
    """Returns how many connections of a worker are for batches, cancels and ticks."""
    from stores.postgres import store

    return store._BATCHES + store._URGENT + store._TICKS
