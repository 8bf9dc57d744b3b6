"""What runs the statements of an SQL engine."""

from __future__ import annotations

from collections.abc import Awaitable

from stores.base import RunStore
from stores.sql.statements import P, Query, SearchStatement, Statement, Statements, T, Transaction


class Engine(RunStore):
    """Subclasses are the engines; each names its kind and its location (`url`)."""

    _sql: Statements

    def _write(self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        """Run the transaction with the time at which it is run, and these arguments."""
        raise NotImplementedError

    def _write_urgent(
        self, transaction: Transaction[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[T]:
        """As `_write`, ahead of the others."""
        raise NotImplementedError

    async def _read(self, query: Statement[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        raise NotImplementedError

    async def _search(
        self,
        query: SearchStatement[Query, P, T],
        criteria: Query,
        user_id: str | None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """A read that may look at every thread or cron, of a user's or of all. No other read waits for it.
        Raises SearchTooLong; StoreUnavailable where the searches of others take all the time."""
        raise NotImplementedError

    def _now(self) -> int:
        raise NotImplementedError
