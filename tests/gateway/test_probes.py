"""The probes of load balancers, which need no key."""

from __future__ import annotations

from coordinator import RunManager, Settings
from tests.support.asgi import serving


async def test_ok_and_info_answer_without_a_key() -> None:
    async with serving() as (_, client):
        assert (await client.get("/ok")).json() == {"ok": True}
        info = (await client.get("/info")).json()
    assert info["flags"]["crons"] is True
    assert info["version"]


async def test_ok_shows_that_the_worker_drains() -> None:
    manager = RunManager(settings=Settings(tick=0.05, grace=0))
    async with serving(manager=manager) as (_, client):
        await manager.worker.drain(grace=0)
        assert (await client.get("/ok")).json() == {"ok": True, "draining": True}
