"""The probes: what a load balancer asks, without a key."""

from __future__ import annotations

import httpx

from coordinator import RunManager
from coordinator.gateway import create_gateway


async def test_ok_and_info_answer_without_a_key() -> None:
    gateway = create_gateway(RunManager())
    transport = httpx.ASGITransport(gateway)
    async with gateway.running(), httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        assert (await client.get("/ok")).json() == {"ok": True}
        info = (await client.get("/info")).json()
    assert info["flags"]["crons"] is True
    assert info["version"]
