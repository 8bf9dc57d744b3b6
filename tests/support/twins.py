"""Two engines as one store: every call is made on both, and both have to answer the same.

So a suite over it shows more than that the second engine does what the suite asks for: it does what the
first one does, to the last field; and at the end both have written the same audit.
"""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import replace
from typing import Any, cast

from stores.errors import CoordinatorError
from stores.memory import MemoryStore
from stores.postgres import PostgresStore
from stores.rows import Admission, Decision, Finish, Tick, WorkerRow

UNORDERED = frozenset({"drain", "sweep", "retire", "expire_threads", "claim_webhooks", "revive_webhooks"})
"""What they answer is a set: one statement says in no order what it has changed."""
NUMBERED = frozenset({"transitions", "prune"})
"""Their answers name numbers of rows, which are an engine's own. `compare_audits` looks at the rest."""


class TwinStore:
    """PostgreSQL is `tested` and answers; `reference` (SQLite's statements, in memory) has to agree."""

    durable = True
    shared = True

    def __init__(self, tested: PostgresStore, reference: MemoryStore) -> None:
        self.tested, self.reference, self.url = tested, reference, tested.url
        self.one_at_a_time = asyncio.Lock()
        """Both see calls that are made at once in the same order."""

    async def open(self) -> None:
        await self.tested.open()

    async def aclose(self) -> None:
        await self.tested.aclose()

    def proven_dead(self, peer: WorkerRow) -> bool:
        return self.tested.proven_dead(peer)

    async def agrees(self, name: str, args: Any, kwargs: Any, mine: Any, error: Exception | None) -> None:
        """Make the call on the reference, which has to answer what `tested` has answered."""
        its, its_error = await answer_of(self.reference, name, args, kwargs)
        assert _refusal(error) == _refusal(its_error), (name, args, mine, its, error, its_error)
        if error is None:
            said, expected = _comparable(name, mine), _comparable(name, its)
            assert said == expected, f"{name}{args}: {said}, the reference {expected}"

    async def compare_audits(self) -> None:
        """Row for row, all but the numbers of the rows."""
        runs = self.reference._cx.execute("SELECT DISTINCT run_id FROM transitions ORDER BY 1").fetchall()
        for (run_id,) in runs:
            mine = [replace(row, id=0) for row in await self.tested.transitions(run_id)]
            its = [replace(row, id=0) for row in await self.reference.transitions(run_id)]
            assert mine == its, f"the audit of {run_id}: {mine}, the reference has {its}"


def _comparable(name: str, answer: Any) -> Any:  # noqa: PLR0911 - one case for each kind of answer
    if name in UNORDERED:
        return sorted(answer, key=repr)
    if name == "workers":
        return [replace(row, proof=None) for row in cast("list[WorkerRow]", answer)]
    if name == "tick":
        tick = cast("Tick", answer)
        return [sorted(getattr(tick, field)) for field in tick.__slots__]
    if isinstance(answer, Finish):
        return answer._replace(decision=answer.decision and _with_children_in_order(answer.decision))
    if isinstance(answer, Admission):
        return answer._replace(replaced=tuple(map(_with_children_in_order, answer.replaced)))
    if isinstance(answer, Decision):
        return _with_children_in_order(answer)
    return None if name in NUMBERED else answer


def _with_children_in_order(decision: Decision) -> Decision:
    return decision._replace(children=tuple(sorted(decision.children)))


def _refusal(error: Exception | None) -> Any:
    return type(error), str(error) if isinstance(error, CoordinatorError) else ""


async def answer_of(store: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, Exception | None]:
    try:
        return await getattr(store, name)(*args, **kwargs), None
    except Exception as error:  # noqa: BLE001 - the answers are compared, failures too
        return None, error


def _twin(name: str) -> Any:
    async def both(self: TwinStore, *args: Any, **kwargs: Any) -> Any:
        async with self.one_at_a_time:
            mine, error = await answer_of(self.tested, name, args, kwargs)
            await self.agrees(name, args, kwargs, mine, error)
        if error is not None:
            raise error
        return mine

    return both


for _name, _method in inspect.getmembers(MemoryStore, inspect.iscoroutinefunction):
    if not _name.startswith("_") and not hasattr(TwinStore, _name):
        setattr(TwinStore, _name, _twin(_name))
