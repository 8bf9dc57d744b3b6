"""Crons over HTTP with the SDK: creation, search, changes, firing once, deletion."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError

from coordinator.gateway.caller import Role
from tests.gateway.conftest import Pair
from tests.support.asgi import key_for, serving
from tests.support.gateways import Served, demo
from tests.support.waiting import wait_until

YEARLY = "0 0 1 1 *"


async def make_due(served: Served, cron_id: str) -> int:
    """Moves the cron's next moment to a second ago, and returns it (µs)."""
    manager = served.manager
    moment = int(datetime.now(UTC).timestamp() - 1) * 1_000_000
    assert await manager.crons.replace(replace(await manager.crons.get(cron_id), next_at=moment)) is not None
    return moment


async def fired(served: Served, cron_id: str) -> str:
    """Waits for the run of the cron's last moment and returns it."""

    async def holds() -> bool:
        return (await served.manager.crons.get(cron_id)).last_run_id is not None

    await wait_until(holds, description="the cron is fired")
    run_id = (await served.manager.crons.get(cron_id)).last_run_id
    assert run_id is not None
    return run_id


async def test_kept_thread_of_a_cron_is_found_by_the_metadata_of_the_cron(pair: Pair) -> None:
    local, remote = pair
    cron: Any = await local.sdk.crons.create(
        "agent", schedule=YEARLY, input=demo(), metadata={"of": "kept"}, on_run_completed="keep"
    )
    await make_due(local, cron["cron_id"])
    run_id = await fired(local, cron["cron_id"])
    [thread] = await remote.sdk.threads.search(metadata={"of": "kept"})
    assert thread["thread_id"] == (await local.manager.runs.get(run_id)).thread_id


async def test_cron_is_created_searched_changed_and_deleted(pair: Pair) -> None:
    local, remote = pair[0].sdk.crons, pair[1].sdk.crons
    local_id = pair[0].manager.assistants.id_of("agent")
    cron: Any = await local.create("agent", schedule=YEARLY, input=demo(), metadata={"of": "mine"})
    assert cron["schedule"] == YEARLY
    assert cron["payload"] == {
        "assistant_id": local_id,
        "input": demo(),
        "metadata": {"of": "mine"},
        "schedule": YEARLY,
        "timezone": None,
    }
    assert cron["next_run_date"].startswith(f"{datetime.now(UTC).year + 1}-01-01T00:00:00")
    assert cron["thread_id"] is None
    [searched] = await remote.search(metadata={"of": "mine"})
    assert searched == cron
    assert await remote.count(metadata={"of": "mine"}) == 1
    assert await remote.search(metadata={"of": "others"}) == []
    changed: Any = await remote.update(cron["cron_id"], schedule="30 12 * * *", enabled=False)
    assert (changed["schedule"], changed["enabled"], changed["next_run_date"]) == ("30 12 * * *", False, None)
    assert changed["metadata"] == {"of": "mine"}
    await local.delete(cron["cron_id"])
    assert await remote.search(metadata={"of": "mine"}) == []
    with pytest.raises(NotFoundError):
        await remote.delete(cron["cron_id"])


async def test_changed_input_is_stored_and_used_by_the_next_firing(pair: Pair, thread: str) -> None:
    local, remote = pair[0], pair[1]
    cron: Any = await local.sdk.crons.create_for_thread(
        thread, "agent", schedule=YEARLY, input=demo(tag="old"), config={"tags": ["kept"]}
    )
    changed: Any = await remote.sdk.crons.update(cron["cron_id"], input=demo(tag="new"))
    [read] = await local.sdk.crons.search(thread_id=thread)
    assert read["payload"] == changed["payload"]
    assert read["payload"]["input"] == demo(tag="new")
    assert read["payload"]["config"] == {"tags": ["kept"]}, "a field that the request omits is kept"
    await make_due(local, cron["cron_id"])
    assert (await remote.sdk.runs.join(thread, await fired(remote, cron["cron_id"])))["log"] == ["new:1"]


async def test_due_cron_is_fired_once_across_all_workers(pair: Pair, thread: str) -> None:
    cron: Any = await pair[0].sdk.crons.create_for_thread(
        thread, "agent", schedule=YEARLY, input=demo(tag="c")
    )
    await make_due(pair[0], cron["cron_id"])
    run_id = await fired(pair[1], cron["cron_id"])
    assert (await pair[1].sdk.runs.join(thread, run_id))["log"] == ["c:1"]
    [run] = await pair[0].sdk.runs.list(thread)
    assert run["run_id"] == run_id
    [after] = await pair[0].sdk.crons.search(thread_id=thread)
    assert after["next_run_date"] == cron["next_run_date"]  # moments of past years are not fired


async def test_missed_moments_are_fired_once(pair: Pair, thread: str) -> None:
    cron: Any = await pair[0].sdk.crons.create_for_thread(
        thread, "agent", schedule="* * * * *", input=demo(tag="m")
    )
    manager = pair[0].manager
    long_ago = int(datetime.now(UTC).timestamp() - 86_400) * 1_000_000
    stored = replace(await manager.crons.get(cron["cron_id"]), next_at=long_ago)
    assert await manager.crons.replace(stored) is not None
    await pair[0].sdk.runs.join(thread, await fired(pair[0], cron["cron_id"]))
    assert len(await pair[0].sdk.runs.list(thread)) == 1
    next_at = (await manager.crons.get(cron["cron_id"])).next_at
    assert next_at is not None
    assert next_at > stored.next_at + 86_000 * 1_000_000 if stored.next_at else False


async def test_thread_of_a_cron_run_is_removed_unless_it_is_kept(pair: Pair) -> None:
    for completed, kept in (("keep", True), ("delete", False)):
        cron: Any = await pair[0].sdk.crons.create(
            "agent", schedule=YEARLY, input=demo(), on_run_completed=completed
        )
        await make_due(pair[0], cron["cron_id"])
        run = await pair[0].manager.runs.get(await fired(pair[0], cron["cron_id"]))
        answer = await pair[1].raw.get(f"/threads/{run.thread_id}/runs/{run.run_id}/join")
        if kept:
            assert answer.json()["log"] == ["run:1"]
            assert (await pair[1].sdk.threads.get(run.thread_id))["status"] == "idle"
        else:
            await wait_until(
                lambda thread=run.thread_id: _gone(pair[1], thread),
                description="the thread of the run is removed",
            )


async def _gone(served: Served, thread: str) -> bool:
    return (await served.raw.get(f"/threads/{thread}")).status_code == 404


async def test_refused_run_is_recorded_and_the_cron_continues(pair: Pair, thread: str) -> None:
    cron: Any = await pair[0].sdk.crons.create_for_thread(
        thread, "agent", schedule=YEARLY, input=demo(sleep=60), multitask_strategy="reject"
    )
    busy = await pair[0].sdk.runs.create(thread, "agent", input=demo(sleep=60))
    await make_due(pair[0], cron["cron_id"])

    async def is_recorded() -> bool:
        return (await pair[1].manager.crons.get(cron["cron_id"])).last_error is not None

    await wait_until(is_recorded, description="the refusal is recorded")
    [shown] = await pair[1].sdk.crons.search(thread_id=thread)
    assert busy["run_id"] in shown["last_error"]
    assert shown["next_run_date"] == cron["next_run_date"]
    await pair[0].sdk.runs.cancel(thread, busy["run_id"], wait=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": "every day"},
        {"schedule": "* * * * * *"},
        {"schedule": "0 0 30 2 *"},
        {"schedule": "61 * * * *"},
        {"timezone": "Mars/Olympus"},
        {"timezone": "../etc/passwd"},
        {"end_time": "tomorrow"},
        {"input": {"steps": "many"}},
        {"multitask_strategy": "banana"},
        {"assistant_id": "unknown"},
    ],
    ids=str,
)
async def test_invalid_cron_is_refused_at_creation(pair: Pair, wrong: dict[str, Any]) -> None:
    body = {"assistant_id": "agent", "schedule": YEARLY, "input": demo(), **wrong}
    answer = await pair[0].raw.post("/runs/crons", json=body)
    assert answer.status_code == 422, answer.text
    assert await pair[0].sdk.crons.count() == 0


async def test_cron_on_an_unknown_thread_is_refused(pair: Pair) -> None:
    missing = "01a21ae8-61fa-7ca6-ab65-bd02954655b8"
    with pytest.raises(NotFoundError):
        await pair[0].sdk.crons.create_for_thread(missing, "agent", schedule=YEARLY, input=demo())


async def test_cron_stops_at_its_end_time(pair: Pair) -> None:
    cron: Any = await pair[0].sdk.crons.create(
        "agent", schedule=YEARLY, input=demo(), end_time=datetime(2001, 1, 1, tzinfo=UTC)
    )
    assert cron["next_run_date"] is None
    with pytest.raises(UnprocessableEntityError):
        await pair[0].sdk.crons.update(cron["cron_id"], schedule="x")


async def test_moment_before_the_end_time_is_not_fired_after_it(pair: Pair, thread: str) -> None:
    """No worker could fire the cron in time."""
    manager = pair[0].manager
    cron: Any = await pair[0].sdk.crons.create_for_thread(thread, "agent", schedule=YEARLY, input=demo())
    minute, now = 60 * 1_000_000, int(datetime.now(UTC).timestamp()) * 1_000_000
    stored = await manager.crons.get(cron["cron_id"])
    assert await manager.crons.replace(replace(stored, next_at=now - 2 * minute, end_at=now - minute))

    async def over() -> bool:
        return (await manager.crons.get(cron["cron_id"])).next_at is None

    await wait_until(over, description="the cron is over")
    assert (await manager.crons.get(cron["cron_id"])).last_error == "its end time has passed"
    assert await pair[0].sdk.runs.list(thread) == []


async def test_crons_of_one_user_are_bounded(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    alice, again, bob, admin = (
        key_for(file, role, user)
        for role, user in ((Role.user, "alice"), (Role.user, "alice"), (Role.user, "bob"), (Role.admin, None))
    )
    body = {"assistant_id": "agent", "schedule": YEARLY}
    async with serving(api_keys=file, max_crons_per_user=3) as (_, client):
        thread = (await client.post("/threads", json={}, headers=alice)).json()["thread_id"]
        made = [
            await client.post(path, json=body, headers=headers)
            for path, headers in (
                ("/runs/crons", alice),
                ("/runs/crons", again),
                (f"/threads/{thread}/runs/crons", alice),
            )
        ]
        assert [answer.status_code for answer in made] == [200] * 3
        for path in ("/runs/crons", f"/threads/{thread}/runs/crons"):
            refused = await client.post(path, json=body, headers=again)
            assert refused.status_code == 429
            assert "'alice' has 3 crons" in refused.json()["detail"]
            assert "max_crons_per_user" in refused.json()["detail"]
        for headers in (bob, *[admin] * 4):
            assert (await client.post("/runs/crons", json=body, headers=headers)).status_code == 200
        await client.delete(f"/runs/crons/{made[0].json()['cron_id']}", headers=alice)
        assert (await client.post("/runs/crons", json=body, headers=alice)).status_code == 200
