"""Webhooks over HTTP: forbidden URLs are refused, others are delivered to."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest

from coordinator import RunManager, Settings
from coordinator.gateway import Gateway
from coordinator.webhooks.lookups import Lookups
from coordinator.webhooks.signing import verify
from coordinator.webhooks.targets import Targets
from stores.states import WebhookState
from tests.gateway.test_operations import metrics
from tests.support.asgi import serving
from tests.support.inside import resolve_by
from tests.support.names import SlowNames
from tests.support.receiver import receiving
from tests.support.waiting import wait_until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
REFUSED = [
    "http://example.com/hook",
    "https://localhost/hook",
    "https://127.0.0.1/hook",
    "https://[::ffff:10.0.0.1]/hook",
    "https://169.254.169.254/latest",
    "https://2130706433/",
    "https://user@example.com/",
    "https://example.com:22/",
    "https://intranet/",
    "/hook",
    "example.com/hook",
    "",
    "https://example.com/" + "x" * 3000,
    7,
    ["https://example.com/"],
]
ON_A_THREAD = ["/threads/{t}/runs", "/threads/{t}/runs/stream", "/threads/{t}/runs/wait"]
ROUTES = [*ON_A_THREAD, "/runs", "/runs/stream", "/runs/wait", "/runs/batch"]
QUICK: dict[str, Any] = {"webhook_poll": 0.02, "webhook_secret": SECRET, "webhook_allow_private": True}


def run_body(route: str, webhook: Any) -> Any:
    body: dict[str, Any] = {
        "assistant_id": "agent",
        "input": {},
        "webhook": webhook,
        "if_not_exists": "create",
    }
    return [{**body, "webhook": None}, body] if route.endswith("batch") else body


def in_production(gateway: Gateway, answer: list[str]) -> list[str]:
    """Replaces the name server by one of the test. Returns the list of queried names."""
    names: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        names.append(host)
        return answer

    targets = Targets(lookups=Lookups(resolve))
    gateway.state.services = replace(gateway.state.services, targets=targets)
    return names


@pytest.mark.parametrize("route", ROUTES)
async def test_every_route_refuses_forbidden_webhook_urls(route: str) -> None:
    async with serving() as (gateway, client):
        in_production(gateway, ["8.8.8.8"])
        for webhook in REFUSED:
            answer = await client.post(route.format(t=uuid4()), json=run_body(route, webhook))
            assert answer.status_code == 422, webhook
            assert "webhook" in answer.text
        left = await gateway.state.services.manager.runs.recent()
        assert [run for run in left if run.status.value != "interrupted"] == [], "no run was admitted"


@pytest.mark.parametrize("route", [*ROUTES, "/runs/crons"])
async def test_answer_does_not_depend_on_what_a_name_resolves_to(route: str) -> None:
    """Otherwise a caller that may create runs could query the names of the server's network."""
    async with serving() as (gateway, client):
        answers: list[httpx.Response] = []
        for addresses in (["8.8.8.8"], ["10.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["169.254.169.254"], []):
            queried = in_production(gateway, addresses)
            body = run_body(route, "https://db.prod.example.com/?token=hunter2")
            body = {**body, "schedule": "0 0 1 1 *"} if route.endswith("crons") else body
            answers.append(await client.post(route.format(t=uuid4()), json=body))
            assert queried == [], "a name was looked up"
        assert {answer.status_code for answer in answers} == {200}


async def test_name_that_resolves_to_a_private_address_is_not_connected_to() -> None:
    private = dict(QUICK, webhook_allow_private=False, webhook_ports=(443,))
    async with serving(**private) as (gateway, client):
        resolve_by(gateway.state.services.targets, SlowNames("127.0.0.1"))
        made = await client.post("/runs", json=run_body("/runs", "https://db.prod.example.com/"))
        assert made.status_code == 200
        manager: RunManager = gateway.state.services.manager

        async def dead() -> bool:
            return bool(await manager.webhooks.search(states=("dead",)))

        await wait_until(dead, description="the webhook is dead at once")
        (row,) = await manager.webhooks.search()
        assert (row.attempts, row.status_code) == (1, None)
        assert row.error == "not sent: the URL must not go to a loopback or private address"


async def test_the_url_of_a_webhook_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as (gateway, client):
        in_production(gateway, ["8.8.8.8"])
        made = await client.post("/runs", json=run_body("/runs", "https://hooks.example.com/?token=hunter2"))
        assert made.status_code == 200
        assert "hunter2" not in made.text + (await client.get(f"/runs/{made.json()['run_id']}")).text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("route", ROUTES)
async def test_run_of_every_route_delivers_its_webhook(route: str) -> None:
    async with receiving() as receiver, serving(**QUICK) as (_, client):
        answer = await client.post(route.format(t=uuid4()), json=run_body(route, receiver.url))
        assert answer.status_code == 200
        await receiver.arrived.wait()
    (got,) = receiver.received
    run_id = verify(SECRET, got.headers, got.body)
    assert got.document["run_id"] == run_id
    assert got.document["status"] == "success"
    assert got.document["values"] == {"done": 1, "steps": 1, "log": ["run:1"]}


async def test_webhook_contains_the_run_document() -> None:
    async with receiving() as receiver, serving(**QUICK) as (_, client):
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        body = {**run_body("", receiver.url), "metadata": {"m": 1}}
        await client.post(f"/threads/{thread}/runs/wait", json=body)
        await receiver.arrived.wait()
        run = (await client.get(f"/threads/{thread}/runs/{receiver.received[0].document['run_id']}")).json()
    document = receiver.received[0].document
    extra = {"values", "run_started_at", "run_ended_at", "webhook_sent_at", "cancel_action"}
    of_runs_in_flight = {"cancelling", "position"}
    assert set(document) - extra == set(run) - of_runs_in_flight
    assert {name: document[name] for name in set(document) - extra} == {
        name: value for name, value in run.items() if name not in of_runs_in_flight
    }


async def test_webhooks_of_runs_that_end_during_close_are_delivered() -> None:
    manager = RunManager(settings=Settings(grace=5))
    async with receiving() as receiver:
        seldom: dict[str, Any] = {**QUICK, "webhook_poll": 60.0}
        async with serving(manager=manager, **seldom) as (_, client):
            body = {**run_body("", receiver.url), "input": {"sleep": 0.2}}
            made: httpx.Response = await client.post("/runs", json=body)
        assert [got.document["run_id"] for got in receiver.received] == [made.json()["run_id"]]
        assert receiver.received[0].document["status"] == "success"


async def test_dead_webhook_is_visible_to_operators() -> None:
    """A dead webhook is kept, so that an operator can list and revive it."""
    async with (
        receiving(500) as receiver,
        serving(**QUICK, webhook_attempts=2, webhook_backoff=0.01) as (gateway, client),
    ):
        await client.post("/runs", json=run_body("", receiver.url))
        manager: RunManager = gateway.state.services.manager

        async def dead() -> bool:
            return bool(await manager.webhooks.search(states=("dead",)))

        await wait_until(dead, description="the webhook is dead")
        (row,) = await manager.webhooks.search()
        assert (row.state, row.attempts, row.status_code) == (WebhookState.dead, 2, 500)


async def test_attempts_are_counted_by_outcome() -> None:
    async with (
        receiving(500, 204, 410) as receiver,
        serving(**QUICK, webhook_backoff=0.01) as (gateway, client),
    ):
        manager: RunManager = gateway.state.services.manager

        async def over(state: str) -> bool:
            return bool(await manager.webhooks.search(states=(state,)))

        for state in ("delivered", "dead"):
            await client.post("/runs", json=run_body("", receiver.url))
            await wait_until(partial(over, state), description=f"the webhook is {state}")
        shown = await metrics(client)
    outcomes = ("delivered", "failed", "given_up")
    assert [shown["coordinator_webhooks_total", outcome] for outcome in outcomes] == [1, 1, 1]
