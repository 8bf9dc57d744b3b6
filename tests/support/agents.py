"""Agents that wait for signals of the test, so that the test decides every interleaving."""

from __future__ import annotations

import asyncio
from typing import Any

from coordinator import RunContext, RunManager, RunRecord


class Agent:
    """Sets `started` when it has started and `cancelled` when it is cancelled; ends when `may_end` is set.

    Its unwinding waits for `may_stop`: while that is clear, the run stays "cancelling".
    """

    def __init__(self, *, saves: Any = None, returns: Any = None, stubborn: bool = False) -> None:
        self.saves, self.returns = saves, returns
        self.started, self.cancelled, self.stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.may_end, self.may_stop = asyncio.Event(), asyncio.Event()
        if not stubborn:
            self.may_stop.set()
        self.cancels = 0
        self._ctx: RunContext | None = None

    @property
    def ctx(self) -> RunContext:
        assert self._ctx is not None, "the agent has not started"
        return self._ctx

    def forget(self) -> None:
        """Drops the reference to the context."""
        self._ctx = None

    @property
    def running(self) -> bool:
        return self.started.is_set() and not self.stopped.is_set()

    async def __call__(self, ctx: RunContext) -> Any:
        self._ctx = ctx
        try:
            if self.saves is not None:
                await ctx.save(self.saves)
            self.started.set()
            await self.may_end.wait()
            return self.returns
        except asyncio.CancelledError:
            self.cancels += 1
            self.cancelled.set()
            await self.may_stop.wait()
            raise
        finally:
            self.stopped.set()


async def launched(
    manager: RunManager, thread_id: str, agent: Agent | None = None, **admission: Any
) -> tuple[RunRecord, Agent]:
    """Admitted and launched; not necessarily started."""
    agent = agent or Agent()
    record = await manager.create_or_reject(thread_id, **admission)
    manager.launch(record, agent)
    return record, agent


async def running(
    manager: RunManager, thread_id: str, agent: Agent | None = None, **admission: Any
) -> tuple[RunRecord, Agent]:
    """A run whose agent has started."""
    record, agent = await launched(manager, thread_id, agent, **admission)
    async with asyncio.timeout(10):
        await agent.started.wait()
    return record, agent


async def quick(ctx: RunContext) -> str:
    """An agent that is done at once."""
    return f"done {ctx.run.run_id}"
