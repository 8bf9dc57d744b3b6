"""Idempotency keys of stateless runs: other callers can neither guess nor use the run's thread."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from coordinator.gateway.caller import Role
from tests.gateway.conftest import Pair
from tests.support.asgi import key_for, serving

RUN = {"assistant_id": "agent", "input": {"steps": 1}, "on_completion": "keep"}
KEY = {"Idempotency-Key": "order-1"}
NAMESPACE = UUID("5f0dd6f4-6c1b-5b0e-9a3a-0b8b8f2f6a11")


async def test_idempotency_key_of_another_user_is_not_usable(tmp_path: Path) -> None:
    alice, bob = (key_for(tmp_path / "keys", Role.user, user) for user in ("alice", "bob"))
    guessed = str(uuid5(NAMESPACE, json.dumps(["alice", "order-1"])))
    async with serving(api_keys=tmp_path / "keys") as (_, client):
        squat = await client.post("/threads", json={"thread_id": guessed}, headers=bob)
        assert squat.status_code == 200
        runs = [await client.post("/runs", json=RUN, headers={**alice, **KEY}) for _ in range(2)]
        assert [answer.status_code for answer in runs] == [200, 200]
        assert runs[0].json()["run_id"] == runs[1].json()["run_id"]
        thread = runs[0].json()["thread_id"]
        assert thread != guessed
        assert UUID(thread).version == 4
        other = await client.post("/runs", json=RUN, headers={**bob, **KEY})
        assert other.json()["thread_id"] != thread
        assert other.json()["run_id"] != runs[0].json()["run_id"]


async def test_repeated_key_returns_the_same_run_on_every_worker(pair: Pair) -> None:
    local, remote = pair
    requests: list[Any] = [worker.raw.post("/runs", json=RUN, headers=KEY) for worker in (local, remote) * 4]
    answers = await asyncio.gather(*requests)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["run_id"] for answer in answers}) == 1
    changed = await remote.raw.post("/runs", json={**RUN, "input": {"steps": 2}}, headers=KEY)
    assert changed.status_code == 409
