"""The probes of load balancers, which need no key."""

from __future__ import annotations

from tests.support.asgi import serving


async def test_ok_and_info_answer_without_a_key() -> None:
    async with serving() as (_, client):
        assert (await client.get("/ok")).json() == {"ok": True}
        info = (await client.get("/info")).json()
    assert info["flags"]["crons"] is True
    assert info["version"]
