"""Runs the statements of an SQL engine."""

from __future__ import annotations

from collections.abc import Awaitable

from stores.base import RunStore
from stores.sql.select import Select
from stores.sql.statement import P, Query, SearchStatement, Statement, T, Transaction
from stores.sql.statements import Statements


class Engine(RunStore):
    """Subclasses are the engines; each names its kind and its location (`url`)."""

    _sql: Statements

    def _write(self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        """Run the transaction with the current time of the store, and these arguments."""
        raise NotImplementedError

    def _write_urgent(
        self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        """As `_write`, ahead of other writes."""
        raise NotImplementedError

    async def _read(self, query: Statement[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        raise NotImplementedError

    async def _select(self, read: Select[T]) -> T:
        """A read of `stores.sql.reads`."""
        return await self._read(self._sql.selecting.select, read)

    async def _search(
        self,
        query: SearchStatement[Query, P, T],
        criteria: Query,
        user_id: str | None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """A read that may scan all threads or crons, of a user or of all users. No other read waits for it.
        Raises SearchTooLong; StoreUnavailable where the searches of others take all the time."""
        raise NotImplementedError

    def _now(self) -> int:
        raise NotImplementedError
