"""What an error of the driver means: repeat the call, report that the store is away, or raise it to the
caller."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import asyncpg

from stores.errors import SCHEMA_CHANGED, RowLocked, StoreError, StoreFull, StoreRefused, StoreUnavailable
from stores.postgres.address import UnusableUrl


class Kind(Enum):
    lock = "lock"
    """Another transaction held a lock; this one was rolled back and may be run again."""
    away = "away"
    """The server cannot be reached, or has closed the connection. Whether the transaction was committed
    is not known: it is run again with the same ids."""
    standby = "standby"
    """The server takes no writes. As `away`, and other connections to it will fail in the same way."""
    unavailable = "unavailable"
    """The fault will not pass soon enough for a retry."""
    full = "full"
    """The server has no room for this write. Smaller ones may be accepted."""
    refused = "refused"
    mistake = "mistake"
    """A mistake of the caller, or of this program."""


class Fault(NamedTuple):
    kind: Kind
    what: str
    hint: str | None = None
    unsent: bool = False
    """It occurred before anything of the call was sent: this attempt has written nothing."""

    @property
    def unanswered(self) -> bool:
        """The call may have been made, and its answer lost."""
        return self.kind is Kind.away and not self.unsent

    def as_error(self, cause: BaseException, *, written: bool | None = None) -> BaseException:
        """The error that the caller receives. `written`: the call may have been written, by this attempt or
        by one before; None = as this fault shows."""
        written = self.unanswered if written is None else written
        hint = (_UNKNOWN if written else _UNWRITTEN) if self.hint is None else self.hint
        if self.kind is Kind.mistake:
            return cause
        if self.kind is Kind.refused:
            error: StoreError = StoreRefused(self.what)
        elif self.kind is Kind.full:
            error = StoreFull(self.what, hint=hint)
        elif self.kind is Kind.lock:
            error = RowLocked(self.what, hint=hint)
        else:
            error = StoreUnavailable(self.what, hint=hint)
        error.__cause__ = cause
        return error


class NotConnected(Exception):
    """No connection could be made: of this call nothing was sent. Its cause is the reason."""


AGAIN = frozenset({Kind.lock, Kind.away, Kind.standby})

_UNKNOWN = (
    "It is not known whether this request was written. Send the same request again, with the same ids: it is"
    " not written twice."
)
_UNWRITTEN = "Nothing was written; try again."
_MIGRATE = "Run `coordinator db migrate` first."
_CHECK = f"{SCHEMA_CHANGED}, `coordinator db migrate` makes it again."
_POOLER = "A pooler in transaction mode stands in between: set postgres_statement_cache=0."
_SETTINGS_REFUSED = (
    "A pooler stands in between: set postgres_statement_cache=0. PgBouncer in session mode may take them"
    " instead: ignore_startup_parameters = lock_timeout, statement_timeout, default_transaction_isolation,"
    " jit."
)
_STATEMENT_MODE = (
    "It is in statement mode, and this command needs a transaction: give it the address without a pooler"
    " (--store), or use a pooler in transaction mode. Nothing was written."
)
_CODES: dict[str, tuple[Kind, str, str | None]] = {
    "40001": (Kind.lock, "the transaction collided with another one", None),
    "40P01": (Kind.lock, "the transaction collided with another one", None),
    "55P03": (Kind.lock, "a row is locked by another transaction", None),
    "57014": (Kind.lock, "the statement took too long", None),
    "25006": (Kind.standby, "the server is a read-only standby", "Name the primary, or all servers."),
    "53300": (Kind.away, "the server has no connection to spare", None),
    "53100": (Kind.full, "the server's disk is full", None),
    "53200": (Kind.full, "the server is out of memory", None),
    "42501": (Kind.refused, "the database role lacks a right", None),
    "26000": (Kind.unavailable, "a prepared statement does not exist any more", _POOLER),
    "42P05": (Kind.unavailable, "a prepared statement belongs to another client", _POOLER),
    "3D000": (Kind.unavailable, "the database does not exist", "Create it first."),
    "3F000": (Kind.unavailable, "the schema does not exist", _MIGRATE),
    "42P01": (Kind.unavailable, "a table of the schema does not exist", _CHECK),
    "42883": (Kind.unavailable, "a function of the schema does not exist", _CHECK),
    "42703": (Kind.unavailable, "a column of the schema does not exist", _CHECK),
}
_CLASSES: dict[str, tuple[Kind, str, str | None]] = {
    "08": (Kind.away, "the connection was lost", None),
    "57": (Kind.away, "the server is shutting down or starting up", None),
    "58": (Kind.unavailable, "the server reported a system error", None),
    "XX": (Kind.unavailable, "the server reported an internal error", None),
    "28": (Kind.refused, "the server does not let this role in", None),
}


def fault_of(error: BaseException) -> Fault:
    """Classifies an error of the driver or the system; a mistake where it is neither."""
    if isinstance(error, NotConnected) and error.__cause__ is not None:
        return fault_of(error.__cause__)._replace(unsent=True)
    if isinstance(error, UnusableUrl):
        return Fault(Kind.refused, str(error))
    return _fault(error)


def _fault(error: BaseException) -> Fault:
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return Fault(
            Kind.standby, "no server that was named takes writes", "Name the primary, or all servers."
        )
    if isinstance(error, asyncpg.PostgresError):
        kind, what, hint = _classified(error)
        detail = str(error).partition("\nHINT:")[0]  # some of the hints describe the driver's own options
        return Fault(kind, f"{what}: {detail}" if detail else what, hint)
    if isinstance(error, asyncpg.InternalClientError) or (
        # The driver has no class of its own for a connection that was lost during a call.
        isinstance(error, asyncpg.InterfaceError) and "clos" in str(error)
    ):
        return Fault(Kind.away, f"the connection was lost: {error}")
    if isinstance(error, TimeoutError):
        return Fault(Kind.away, "the server does not answer")
    if isinstance(error, OSError | EOFError):
        return Fault(Kind.away, f"the server cannot be reached: {error}")
    return Fault(Kind.mistake, str(error))


def _classified(error: asyncpg.PostgresError) -> tuple[Kind, str, str | None]:
    code = str(getattr(error, "sqlstate", ""))
    if code == "08P01" and "startup parameter" in str(error):  # PgBouncer has this code for many things
        return Kind.unavailable, "the session's settings are refused", _SETTINGS_REFUSED
    if "statement pooling mode" in str(error):
        return Kind.unavailable, "the pooler takes no transactions", _STATEMENT_MODE
    return _CODES.get(code) or _CLASSES.get(code[:2]) or (Kind.mistake, "", None)
