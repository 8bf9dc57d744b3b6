"""The authorisation matrix: every route of the router × every caller × every kind of target."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi.routing import iter_route_contexts

from coordinator import RunManager
from coordinator.gateway import create_gateway
from tests.gateway.matrix import (
    AGENT,
    MALFORMED,
    ROLES,
    ROWS,
    SLOW,
    SOCKETS,
    CallerKind,
    Ids,
    Needs,
    Row,
    Seen,
    What,
    answered_in_full,
    cron_body,
    expected,
    new_ids,
)
from tests.support.asgi import key_for, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


def routes() -> Iterator[tuple[str, str]]:
    """Returns the routes of the router: each of them, also a later one, needs a row."""
    for route in iter_route_contexts(create_gateway(RunManager()).routes):
        for method in sorted((route.methods or {"WEBSOCKET"}) - {"HEAD"}):
            yield method, route.path or str(route.original_route)


async def test_every_route_has_a_row_and_every_row_a_route() -> None:
    assert set(routes()) == set(ROWS) | SOCKETS


_ENDLESS = re.compile(r"/threads/[^/]+/stream")
"""The stream of a thread does not end: callers that may read it are refused for an invalid event id."""


class World:
    """A gateway with keys, and resources of alice, bob and the admin."""

    def __init__(self, client: httpx.AsyncClient, keys: dict[CallerKind, dict[str, str]]) -> None:
        self._client = client
        self._targets: dict[tuple[CallerKind, What], Ids] = {}
        self.keys = {**keys, CallerKind.no_key: {}, CallerKind.stranger: {"x-api-key": "rck_000000000000_no"}}

    def forget_targets(self) -> None:
        self._targets.clear()

    async def send(self, kind: CallerKind, method: str, path: str, body: Any = None) -> httpx.Response:
        wrong = {"Last-Event-ID": "none"} if _ENDLESS.fullmatch(path) else {}
        return await self._client.request(method, path, headers=self.keys[kind] | wrong, json=body)

    async def thread(self, kind: CallerKind, *, in_flight: bool = False) -> Ids:
        """Creates a thread of that user with a run and a cron."""
        made = await self.send(kind, "POST", "/threads", {"metadata": {"secret": f"of {kind}"}})
        thread_id: str = made.json()["thread_id"]
        path, body = ("runs", SLOW) if in_flight else ("runs/wait", AGENT)
        begun = await self.send(kind, "POST", f"/threads/{thread_id}/{path}", body)
        assert begun.status_code == 200, begun.text
        cron = await self.send(kind, "POST", f"/threads/{thread_id}/runs/crons", cron_body(new_ids()))
        return Ids(thread_id, begun.headers["content-location"].rpartition("/")[2], cron.json()["cron_id"])

    async def target(self, kind: CallerKind, what: What, row: Row, *, again: bool) -> Ids:
        """`again`: requests that do not change the target share it."""
        mine = {
            CallerKind.other: CallerKind.other,
            CallerKind.admin: CallerKind.admin,
            CallerKind.watcher: CallerKind.admin,
        }.get(kind, CallerKind.user)
        if not again or (mine, what) not in self._targets:
            self._targets[mine, what] = await self._made(mine, what, row.in_flight)
        return self._targets[mine, what] if again else self._targets.pop((mine, what))

    async def _made(self, mine: CallerKind, what: What, in_flight: bool) -> Ids:
        theirs = CallerKind.user if mine is CallerKind.other else CallerKind.other
        if what is What.missing:
            return new_ids()
        if what is What.malformed:
            return Ids(MALFORMED, MALFORMED, MALFORMED)
        if what is What.foreign:
            return await self.thread(theirs, in_flight=in_flight)
        own = await self.thread(mine, in_flight=in_flight)
        if what is What.own:
            return own
        if what is What.missing_child:
            return own._replace(run_id=new_ids().run_id)
        return own._replace(run_id=(await self.thread(theirs, in_flight=in_flight)).run_id)


@asynccontextmanager
async def open_world(folder: Path) -> AsyncGenerator[World]:
    file = folder / "keys.json"
    keys = {kind: key_for(file, role, user_id) for kind, (role, user_id) in ROLES.items()}
    async with serving(api_keys=file, max_crons_per_user=None) as (_, client):  # most cells create some
        yield World(client, keys)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    """One gateway for all cells: creating it takes longer than a request."""
    async with open_world(tmp_path_factory.mktemp("keys")) as made:
        yield made


DRAIN = ("POST", "/coordinator/drain")


@pytest.mark.parametrize("route", [route for route in ROWS if route != DRAIN], ids=" ".join)
async def test_permissions_match_the_matrix(route: tuple[str, str], world: World) -> None:
    await check_cells(world, route)


async def test_permissions_of_drain_match_the_matrix(tmp_path: Path) -> None:
    async with open_world(tmp_path) as leaving:
        await check_cells(leaving, DRAIN)


async def check_cells(world: World, route: tuple[str, str]) -> None:
    (method, path), row = route, ROWS[route]
    world.forget_targets()
    for kind in CallerKind:
        seen: dict[What, Seen] = {}
        for what in row.targets(path):
            spent = answered_in_full(row, kind, what) and row.needs in (Needs.user, Needs.admin)
            ids = await world.target(kind, what, row, again=not spent)
            place = path.format(**ids._asdict(), assistant_id="agent", checkpoint_id="c", namespace="n")
            answer = await world.send(kind, method, place, None if row.body is None else row.body(ids))
            cell = f"{kind}, {what}: {answer.status_code} {answer.text[:300]}"
            assert answer.status_code == expected(row, kind, what), cell
            seen[what] = Seen.of(answer, ids)
            if not row.needs.lets(kind):
                assert "secret" not in answer.text, cell
        _check_that_responses_are_equal(row, kind, seen)


def _check_that_responses_are_equal(row: Row, kind: CallerKind, seen: dict[What, Seen]) -> None:
    if not row.needs.lets(kind):
        assert len(set(seen.values())) == 1, f"{kind} learns what exists: {seen}"
    elif What.foreign in seen and ROLES[kind][1] is not None:
        assert seen[What.foreign] == seen[What.missing], kind
    if What.foreign_child in seen and row.needs.lets(kind):
        assert seen[What.foreign_child] == seen[What.missing_child], kind


async def test_taken_thread_id_reveals_nothing_about_its_owner(world: World) -> None:
    ids = await world.thread(CallerKind.other)
    for if_exists in ("raise", "do_nothing"):
        body = {"thread_id": ids.thread_id, "if_exists": if_exists}
        answer = await world.send(CallerKind.user, "POST", "/threads", body)
        assert answer.status_code == 409
        assert "secret" not in answer.text


async def test_cancelling_all_cancels_only_runs_of_the_caller(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        theirs = await world.thread(CallerKind.other, in_flight=True)
        nothing = await world.send(CallerKind.user, "POST", "/runs/cancel", {"status": "all"})
        mine = await world.thread(CallerKind.user, in_flight=True)
        done = await world.send(CallerKind.user, "POST", "/runs/cancel", {"status": "all"})
        assert (nothing.status_code, done.status_code) == (404, 204)
        for ids, kind, cancelled in ((theirs, CallerKind.other, False), (mine, CallerKind.user, True)):
            receipt = await world.send(kind, "GET", f"/coordinator/runs/{ids.run_id}/receipt")
            assert (receipt.json()["requested_at"] is not None) is cancelled


async def test_cancelling_by_filters_cancels_only_runs_of_the_caller(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        theirs = await world.thread(CallerKind.other, in_flight=True)
        mine = await world.thread(CallerKind.user, in_flight=True)

        async def cancel_matching(kind: CallerKind, **body: Any) -> Any:
            answer = await world.send(
                kind, "POST", "/runs/cancel", {"status": "all", "dry_run": True, **body}
            )
            return answer.json()["run_ids"] if answer.status_code == 200 else answer.status_code

        assert await cancel_matching(CallerKind.user) == [mine.run_id]
        assert await cancel_matching(CallerKind.user, user_id="alice") == [mine.run_id]
        assert await cancel_matching(CallerKind.user, user_id="bob") == 403
        assert await cancel_matching(CallerKind.user, thread_id=theirs.thread_id) == []
        assert await cancel_matching(CallerKind.admin) == sorted([mine.run_id, theirs.run_id])
        assert await cancel_matching(CallerKind.admin, user_id="bob") == [theirs.run_id]
        done = await world.send(
            CallerKind.user, "POST", "/runs/cancel", {"status": "all", "older_than": 1e-6}
        )
        assert done.json()["cancelled"] == 1
        receipt = await world.send(CallerKind.other, "GET", f"/coordinator/runs/{theirs.run_id}/receipt")
        assert receipt.json()["requested_at"] is None


async def test_batch_with_a_foreign_thread_starts_no_run(world: World) -> None:
    theirs, mine = await world.thread(CallerKind.other), await world.thread(CallerKind.user)
    batch = [{**SLOW, "thread_id": thread} for thread in (mine.thread_id, theirs.thread_id)]
    assert (await world.send(CallerKind.user, "POST", "/runs/batch", batch)).status_code == 404
    listed = await world.send(CallerKind.user, "GET", f"/threads/{mine.thread_id}/runs?status=running")
    assert listed.json() == []
    runs = await world.send(CallerKind.other, "GET", f"/threads/{theirs.thread_id}/runs")
    assert [run["run_id"] for run in runs.json()] == [theirs.run_id]


async def test_thread_of_an_admin_is_hidden_from_users(world: World) -> None:
    """A thread without a user does not exist for users, and no run of a user takes ownership of it."""
    ids, missing = await world.thread(CallerKind.admin), new_ids()
    for path in ("", "/runs", "/state"):
        answers = [
            Seen.of(await world.send(CallerKind.user, "GET", f"/threads/{one.thread_id}{path}"), one)
            for one in (ids, missing)
        ]
        assert answers[0] == answers[1]
        assert answers[0].status == 404
    for body in (AGENT, {**AGENT, "if_not_exists": "create"}):
        answer = await world.send(CallerKind.user, "POST", f"/threads/{ids.thread_id}/runs/wait", body)
        assert answer.status_code == 404
    assert (await world.send(CallerKind.user, "GET", f"/threads/{ids.thread_id}")).status_code == 404


async def test_reader_cannot_cancel_on_disconnect(world: World) -> None:
    ids = await world.thread(CallerKind.user, in_flight=True)
    for path in ("stream", "join"):
        answer = await world.send(
            CallerKind.reader,
            "GET",
            f"/threads/{ids.thread_id}/runs/{ids.run_id}/{path}?cancel_on_disconnect=1",
        )
        assert answer.status_code == 403


async def test_history_contains_the_actor_of_a_cancel(world: World) -> None:
    key = world.keys[CallerKind.admin]["x-api-key"].split("_")[1]
    for kind, actor in ((CallerKind.user, "alice"), (CallerKind.admin, f"key {key}")):
        one = await world.thread(CallerKind.user, in_flight=True)
        path = f"/threads/{one.thread_id}/runs/{one.run_id}/cancel?wait=1"
        assert (await world.send(kind, "POST", path)).status_code == 200
        many = await world.thread(CallerKind.user, in_flight=True)
        body = {"thread_id": many.thread_id, "run_ids": [many.run_id]}
        assert (await world.send(kind, "POST", "/runs/cancel", body)).status_code == 204
        for ids in (one, many):
            receipt = await world.send(kind, "GET", f"/coordinator/runs/{ids.run_id}/receipt")
            assert receipt.json()["actor"] == actor
