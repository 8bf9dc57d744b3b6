"""One roll: workers of the last release make a store, those of the working tree join, the old ones leave."""

from __future__ import annotations

import time
import traceback
from collections.abc import Awaitable, Callable, Generator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from coordinator.servers.postgres import PostgresServer
from coordinator.servers.valkey import ValkeyServer
from stores.sql.migration import migrations_of
from tests.roll.checks import BOTH_WAYS, Pair, ended, equal, until
from tests.roll.versions import ROOT, RemoteError, Worker, packages, worker
from tests.support.receiver import Receiver, receiving

QUICK: dict[str, Any] = {
    "tick": 0.5,
    "renew": 0.5,
    "lease_ttl": 5.0,
    "lease_margin": 1.0,
    "sweep": 0.5,
    "grace": 3.0,
    "sqlite_synchronous": "NORMAL",
}
STORES = ("sqlite", "postgres", "redis")


class Answer(NamedTuple):
    check: str
    direction: str
    seconds: float
    wrong: str | None


@contextmanager
def store(kind: str, folder: Path) -> Generator[dict[str, Any]]:
    """Settings of its workers."""
    on_file = {**QUICK, "store": f"sqlite:///{folder / 'runs.db'}"}
    if kind == "postgres":
        with PostgresServer(durable=False) as server:
            yield {**QUICK, "store": server.url()}
    elif kind == "redis":
        with ValkeyServer() as valkey:
            yield {**on_file, "redis": valkey.url}
    else:
        yield on_file


class Roll:
    """All checks of one store, and the answer to each."""

    def __init__(self, kind: str, settings: dict[str, Any], receiver: Receiver) -> None:
        self.kind, self.settings, self.receiver = kind, settings, receiver
        self.answers: list[Answer] = []
        self.old_packages = packages()

    def of(self, label: str) -> Any:
        where = ROOT if label.startswith("new") else self.old_packages
        return worker(label, where, self.settings)

    async def check(self, name: str, direction: str, check: Callable[[], Awaitable[None]]) -> None:
        began, wrong = time.monotonic(), None
        try:
            await check()
        except Exception as error:  # noqa: BLE001 - the other checks run all the same
            wrong = "".join(traceback.format_exception(error, limit=-3))
        self.answers.append(Answer(name, direction, time.monotonic() - began, wrong))

    async def run(self) -> list[Answer]:
        async with AsyncExitStack() as stack:
            old = await stack.enter_async_context(self.of("old"))
            leaves = await stack.enter_async_context(self.of("old-leaves"))
            dies = await stack.enter_async_context(self.of("old-dies"))
            before = await old.do("return await begin(t, kwargs={'save': {'n': 1}, 'go': True})", t="before")
            await old.do("await m.wait(run, timeout=20)", run=before)
            new = await stack.enter_async_context(self.of("new"))
            await self.check("what was there before is there", "new", lambda: _history(new, before))
            for check in BOTH_WAYS:
                for owner, other in ((old, new), (new, old)):
                    pair = Pair(owner, other, self.receiver, self.kind == "redis")
                    await self.check(
                        check.__name__.replace("_", " "),
                        f"{owner.label} to {other.label}",
                        lambda check=check, pair=pair: check(pair),
                    )
            await self.check(
                "a drain hands its waiting run over", "old to new", lambda: _handover(leaves, new)
            )
            await self.check("a killed worker's run is ended", "old to new", lambda: _killed(dies, new))
            await self.check(
                "a new worker drains when the old requests it", "new to old", self._drained(stack, old)
            )
            await self.check("an old worker that restarts comes in", "old", self._restarted)
        return self.answers

    def _drained(self, stack: AsyncExitStack, old: Worker) -> Callable[[], Awaitable[None]]:
        async def check() -> None:
            leaves = await stack.enter_async_context(self.of("new-leaves"))
            await _handover(leaves, old)

        return check

    async def _restarted(self) -> None:
        """A restarted old worker is accepted if the new version has no migration. Otherwise it is refused,
        with what to do. Which of the two is right is known beforehand."""
        then, now = (_newest_migration(where, self.kind) for where in (self.old_packages, ROOT))
        try:
            async with self.of("old-again") as again:
                equal(await again.do("return list((await m.worker.health()).why_not)"), [])
        except RemoteError as refused:
            if now == then or not _is_refusal(refused, stored=now, knows=then):
                raise


def _newest_migration(where: Path, kind: str) -> int:
    return migrations_of(where / "stores/sql" / ("postgres" if kind == "postgres" else "sqlite"))[-1].number


def _is_refusal(refused: RemoteError, *, stored: int, knows: int) -> bool:
    """Of a program that is older than the schema: both versions, and that it is to be upgraded."""
    words = (f"version {stored}", f"knows {knows}", "upgrade run-coordinator")
    return refused.kind in {"StoreRefused", "SchemaTooNew"} and all(word in refused.text for word in words)


async def _history(new: Worker, run: str) -> None:
    row = await new.do("return await row(run)", run=run)
    equal((row["status"], row["steps"]), ("success", ["admitted", "started", "finished"]))
    equal(await new.do("return (await m.threads.get('before')).values"), {"n": 1})
    equal(await new.do("return await m.wait(run, timeout=5)", run=run), {"by": "old"})


async def _handover(leaves: Worker, stays: Worker) -> None:
    """Its running run may finish; its waiting run continues at another worker."""
    thread = f"handover-{leaves.label}"
    running = await leaves.do("return await begin(t)", t=f"{thread}-running")
    holder = await stays.do("return await begin(t)", t=thread)
    waits = await leaves.do("return await admit(t, 'enqueue', kwargs={'go': True})", t=thread)
    drained = await stays.do(
        "return [a.epoch for a in await m.worker.request_drain(e, grace=20)]", e=leaves.epoch
    )
    equal(drained, [leaves.epoch])

    async def draining() -> bool:
        return await leaves.do("return m.worker.draining")

    await until(draining, "it drains")
    await stays.do("release(run)", run=holder)
    by = await stays.do("return (await m.wait(run, timeout=30))['by']", run=waits)
    equal(by.startswith(leaves.label), False)
    await leaves.do("release(run)", run=running)
    equal((await ended(stays, running))["status"], "success")
    equal(await leaves.end(), 0)


async def _killed(dies: Worker, new: Worker) -> None:
    run = await dies.do("return await begin(t)", t="killed")
    await dies.kill()
    row = await ended(new, run)
    equal((row["status"], row["cause"]), ("error", "orphaned"))
    again = await new.do("return await begin(t, kwargs={'go': True})", t="killed")
    equal(await new.do("return await m.wait(run, timeout=20)", run=again), {"by": "new"})


async def roll(kind: str, folder: Path) -> list[Answer]:
    with store(kind, folder) as settings:
        async with receiving() as receiver:
            return await Roll(kind, settings, receiver).run()
