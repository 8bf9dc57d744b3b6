"""What the user's functions decide about created assistants and about the store of graphs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from langgraph_sdk import Auth

from coordinator import RunManager, Settings
from coordinator.langgraph.extension import Extension
from tests.langgraph.test_auth import AGENT, CRON, gateway, handlers, named, owned, status
from tests.langgraph.test_items import assistants
from tests.support.asgi import serving
from tests.support.teams import QUICK

BOB = {"authorization": "bob"}


async def test_documented_example_of_owners() -> None:
    async with gateway(owned()) as client:
        made = (await client.post("/assistants", json={"graph_id": "agent", "metadata": {"a": 1}})).json()
        assert made["metadata"] == {"a": 1, "owner": "ann"}
        known = made["assistant_id"]
        (listed,) = (await client.post("/assistants/search", json={})).json()
        assert listed == made
        assert (await client.post("/assistants/count", json={})).json() == 1
        run = (await client.post("/runs", json={**AGENT, "assistant_id": known})).json()
        assert (run["assistant_id"], run["metadata"]["owner"]) == (known, "ann")
        changed = (await client.patch(f"/assistants/{known}", json={"metadata": {"b": 2}})).json()
        assert changed["metadata"] == {"a": 1, "b": 2, "owner": "ann"}
        versions = (await client.post(f"/assistants/{known}/versions", json={})).json()
        assert [each["version"] for each in versions] == [2, 1]
        assert await status(client, "POST", f"/assistants/{known}/latest", {"version": 1}) == 200
        assert (await client.post("/assistants/count", json={}, headers=BOB)).json() == 0
        assert await status(client, "DELETE", f"/assistants/{known}", **BOB) == 404
        assert await status(client, "DELETE", f"/assistants/{known}") == 204


async def test_filter_restricts_a_user_further() -> None:
    """For the caller an assistant that does not match is one that does not exist."""
    auth = named()

    @auth.on.assistants
    async def of_team(ctx: Auth.types.AuthContext, value: Any) -> Any:
        return None if ctx.action == "create" else {"team": "red"}

    async with gateway(auth) as client:
        red, blue = [
            (await client.post("/assistants", json={"graph_id": "agent", "metadata": {"team": team}})).json()
            for team in ("red", "blue")
        ]
        (listed,) = (await client.post("/assistants/search", json={})).json()
        assert listed["assistant_id"] == red["assistant_id"]
        hidden = f"/assistants/{blue['assistant_id']}"
        requests: list[tuple[str, str, Any]] = [
            ("GET", hidden, None),
            ("PATCH", hidden, {"name": "x"}),
            ("DELETE", hidden, None),
            ("POST", f"{hidden}/versions", {}),
            ("POST", f"{hidden}/latest", {"version": 1}),
            ("GET", f"{hidden}/schemas", None),
            ("POST", "/runs", {**AGENT, "assistant_id": blue["assistant_id"]}),
            ("POST", "/runs/batch", [{**AGENT, "assistant_id": blue["assistant_id"]}]),
            ("POST", "/runs/crons", {**CRON, "assistant_id": blue["assistant_id"]}),
        ]
        for method, path, body in requests:
            assert await status(client, method, path, body) == 404, (method, path)
        assert await status(client, "POST", "/runs", {**AGENT, "assistant_id": red["assistant_id"]}) == 200
        assert await status(client, "POST", "/runs", AGENT) == 200


@asynccontextmanager
async def with_items(auth: Auth, folder: Path) -> AsyncGenerator[httpx.AsyncClient]:
    manager = RunManager(settings=Settings(**QUICK), assistants=assistants(folder))
    extension = Extension(handlers=handlers(auth))
    async with serving(manager=manager, extension=extension, headers={"authorization": "ann"}) as (_, http):
        yield http


async def test_function_puts_the_user_into_every_namespace(tmp_path: Path) -> None:
    auth = named()

    @auth.on.store
    async def own(ctx: Auth.types.AuthContext, value: Any) -> None:
        namespace = tuple(value["namespace"] or ())
        if namespace[:1] != (ctx.user.identity,):
            value["namespace"] = (ctx.user.identity, *namespace)

    async with with_items(auth, tmp_path) as http:
        item = {"namespace": ["notes"], "key": "k", "value": {"n": 1}}
        assert await status(http, "PUT", "/store/items", item) == 204
        query = {"namespace": "notes", "key": "k"}
        assert (await http.get("/store/items", params=query)).json()["namespace"] == ["ann", "notes"]
        assert (await http.get("/store/items", params=query, headers=BOB)).json() is None
        search = {"namespace_prefix": ["notes"]}
        assert len((await http.post("/store/items/search", json=search)).json()["items"]) == 1
        assert (await http.post("/store/items/search", json=search, headers=BOB)).json() == {"items": []}
        assert (await http.post("/store/namespaces", json={})).json() == {"namespaces": [["ann", "notes"]]}
        assert (await http.post("/store/namespaces", json={}, headers=BOB)).json() == {"namespaces": []}
        assert await status(http, "DELETE", "/store/items", {"namespace": ["notes"], "key": "k"}) == 204
        assert (await http.get("/store/items", params=query)).json() is None


async def test_filter_applies_to_the_values_of_a_search(tmp_path: Path) -> None:
    auth = named()

    @auth.on.store.search
    async def red(ctx: Auth.types.AuthContext, value: Any) -> dict[str, str]:
        return {"team": "red"}

    async with with_items(auth, tmp_path) as http:
        for team in ("red", "blue"):
            item = {"namespace": ["ann"], "key": team, "value": {"team": team}}
            assert await status(http, "PUT", "/store/items", item) == 204
        search: dict[str, Any] = {"namespace_prefix": ["ann"]}
        answer = await http.post("/store/items/search", json=search)
        assert [each["key"] for each in answer.json()["items"]] == ["red"]
        search["filter"] = {"team": "blue"}
        assert (await http.post("/store/items/search", json=search)).json() == {"items": []}


async def test_threads_that_a_function_hides_are_not_pruned() -> None:
    auth = named()

    @auth.on.threads.delete
    async def open_ones(ctx: Auth.types.AuthContext, value: Any) -> dict[str, str]:
        return {"case": "open"}

    async with gateway(auth) as client:
        threads = [
            (await client.post("/threads", json={"metadata": {"case": case}})).json()["thread_id"]
            for case in ("open", "shut")
        ]
        assert await status(client, "POST", "/threads/prune", {"thread_ids": threads}) == 404
        assert (await client.post("/threads/count", json={})).json() == 2
        answer = await client.post("/threads/prune", json={"thread_ids": threads[:1]})
        assert answer.json() == {"pruned_count": 1}
