"""Several stores that receive the same calls in the same order and must return the same answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stores.base import CoordinationStore
from stores.memory import MemoryStore
from stores.pruning import PruneCursor, Retention
from stores.sqlite import SQLiteStore
from tests.support.builders import StoreClock
from tests.support.postgres import Database
from tests.support.twins import TwinStore, answer_of, comparable, compare_files, refusal

PAGES = 100
"""Limit of the steps of one pass of the pruner. No pass of a sequence is longer."""


class Difference(AssertionError):
    """Two engines answered one call differently. `signature` is the same for differences of one kind."""

    def __init__(self, call: Call, answers: Mapping[str, tuple[Any, Exception | None]]) -> None:
        super().__init__(
            "\n".join(
                (
                    f"{call[0]}{call[1]} {call[2]}",
                    *(
                        f"  {name}: {repr(answer)[:700]}{f' {error!r}'[:300] if error else ''}"
                        for name, (answer, error) in answers.items()
                    ),
                )
            )
        )
        self.signature = call[0], *(type(error).__name__ for _, error in answers.values())


Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class Engines:
    """`calls` are all calls in their order. The first of `stores` answers."""

    def __init__(self, stores: Mapping[str, CoordinationStore]) -> None:
        self.stores = stores
        self.calls: list[Call] = []
        self.called: Counter[str] = Counter()

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Returns the common answer, or None if all stores raised the same error. Raises Difference."""
        call = (name, args, kwargs)
        self._note(call)
        answers = {which: await answer_of(store, *call) for which, store in self.stores.items()}
        return self._agreed(call, answers)

    async def prune(self, keep: Retention, *, limit: int, dry_run: bool) -> None:
        """Run a whole pass. Each engine has its own cursor: a cursor holds row numbers of its engine."""
        cursors: dict[str, PruneCursor | None] = dict.fromkeys(self.stores)
        for _ in range(PAGES):
            call = ("prune", (keep,), {"limit": limit, "dry_run": dry_run})
            self._note(call)
            answers = {
                which: await answer_of(store, "prune", (keep,), {**call[2], "cursor": cursors[which]})
                for which, store in self.stores.items()
            }
            self._agreed(call, answers)
            cursors = {which: step.cursor for which, (step, _) in answers.items()}
            if None in cursors.values():
                return
        raise AssertionError(f"a pass of {keep} took more than {PAGES} steps of {limit}")

    async def again(self, call: Call) -> None:
        name, args, kwargs = call
        await self.call(name, *args, **kwargs)

    def _note(self, call: Call) -> None:
        self.calls.append(call)
        self.called[call[0]] += 1

    def _agreed(self, call: Call, answers: dict[str, tuple[Any, Exception | None]]) -> Any:
        (first, error), *others = answers.values()
        for other, its_error in others:
            if refusal(error) != refusal(its_error):
                raise Difference(call, answers)
            if error is None and comparable(call[0], first) != comparable(call[0], other):
                raise Difference(call, answers)
        return first if error is None else None


@asynccontextmanager
async def engines(database: Database, clock: StoreClock, *, file: bool) -> AsyncGenerator[Engines]:
    """PostgreSQL and memory, with `file` SQLite on a disk too. Their tables are compared at the end."""
    async with AsyncExitStack() as stack:
        tested = await stack.enter_async_context(database.store(clock=clock))
        reference = MemoryStore(clock=clock, shared=True)
        stores: dict[str, Any] = {"postgresql": tested, "memory": reference}
        path = Path(stack.enter_context(TemporaryDirectory(prefix="differential-"))) / "runs.db"
        if file:
            stores["sqlite"] = sqlite = SQLiteStore(path, clock=clock, synchronous="NORMAL")
            await sqlite.open()
            stack.push_async_callback(sqlite.aclose)
        yield Engines(stores)
        await TwinStore(tested, reference).compare_tables()
        if file:
            compare_files(path, reference)
