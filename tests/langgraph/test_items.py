"""The store of graphs over HTTP: the same items on all gateways and in graphs."""

from __future__ import annotations

import itertools
import operator
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypedDict

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

from coordinator import RunManager, Settings
from coordinator.gateway.caller import Role
from coordinator.langgraph import GraphAssistant, GraphStorage, StoreOptions, sqlite_states, sqlite_store
from tests.support.asgi import key_for, serving
from tests.support.gateways import Sdk, gateways
from tests.support.teams import QUICK

NOTHING: dict[str, Any] = {}


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


async def remember(state: State, runtime: Runtime[Any]) -> State:
    assert runtime.store is not None
    item = await runtime.store.aget(("notes", "alice"), "a")
    await runtime.store.aput(("notes", "alice"), "b", {"by": "graph"})
    return {"log": [str(item and item.value)]}


def assistants(folder: Path, options: StoreOptions | None = None) -> dict[str, Any]:
    builder: Any = StateGraph(State)
    builder.add_node("remember", remember)
    builder.add_edge(START, "remember")
    storage = GraphStorage(
        sqlite_states(folder / "checkpoints.db", synchronous="NORMAL"),
        sqlite_store(folder / "items.db", options or StoreOptions()),
    )
    return {"graph": GraphAssistant(builder, storage, name="graph")}


@pytest.fixture
async def sdks(tmp_path: Path, namespace: str) -> AsyncGenerator[tuple[Sdk, Sdk]]:
    team = gateways(2, tmp_path, None, namespace, agents=lambda: assistants(tmp_path))
    async with team as (a, b):
        yield a.sdk, b.sdk


async def keys(sdk: Sdk, *prefix: str, **query: Any) -> list[str]:
    return sorted(item["key"] for item in (await sdk.store.search_items(prefix, **query))["items"])


async def test_items_are_those_of_graphs_and_of_all_gateways(sdks: tuple[Sdk, Sdk]) -> None:
    a, b = sdks
    await a.store.put_item(["notes", "alice"], "a", {"n": 1})
    item = await b.store.get_item(["notes", "alice"], "a")
    assert (item["namespace"], item["key"], item["value"]) == (["notes", "alice"], "a", {"n": 1})
    assert item["created_at"] <= item["updated_at"]
    times = [datetime.fromisoformat(str(item[name])) for name in ("created_at", "updated_at")]
    assert [time.utcoffset() for time in times] == [timedelta(0)] * 2
    assert abs(datetime.now(UTC) - times[0]) < timedelta(minutes=1)
    assert (await b.runs.wait(None, "graph", input={"log": []}))["log"] == ["{'n': 1}"]
    assert (await a.store.get_item(["notes", "alice"], "b"))["value"] == {"by": "graph"}
    await b.store.delete_item(["notes", "alice"], "a")
    assert await a.store.get_item(["notes", "alice"], "a") is None
    await b.store.delete_item(["notes", "alice"], "a")


async def test_search_filters_and_pages(sdks: tuple[Sdk, Sdk]) -> None:
    a, b = sdks
    for number, kind in enumerate(("x", "y", "x")):
        await a.store.put_item(["notes", f"u{number}"], f"k{number}", {"kind": kind, "n": number})
    await a.store.put_item(["other"], "k9", {"kind": "x"})
    assert await keys(b, "notes") == ["k0", "k1", "k2"]
    assert await keys(b) == ["k0", "k1", "k2", "k9"]
    assert await keys(b, "notes", filter={"kind": "x"}) == ["k0", "k2"]
    assert await keys(b, "notes", filter={"n": {"$gt": 0, "$lt": 2}}) == ["k1"]
    assert await keys(b, "notes", filter={"kind": {"$ne": "x"}}) == ["k1"]
    pages = [await keys(b, "notes", limit=2, offset=offset) for offset in (0, 2, 4)]
    assert sorted(itertools.chain(*pages)) == ["k0", "k1", "k2"]
    assert [len(page) for page in pages] == [2, 1, 0]


async def test_namespaces(sdks: tuple[Sdk, Sdk]) -> None:
    a, b = sdks
    for namespace in (["a", "x", "1"], ["a", "y"], ["b", "x"]):
        await a.store.put_item(namespace, "k", {})

    async def listed(**query: Any) -> list[list[str]]:
        return (await b.store.list_namespaces(**query))["namespaces"]

    assert await listed() == [["a", "x", "1"], ["a", "y"], ["b", "x"]]
    assert await listed(prefix=["a"]) == [["a", "x", "1"], ["a", "y"]]
    assert await listed(suffix=["x"]) == [["b", "x"]]
    assert await listed(max_depth=1) == [["a"], ["b"]]
    assert await listed(prefix=["*", "x"]) == [["a", "x", "1"], ["b", "x"]]
    assert await listed(limit=1, offset=1) == [["a", "y"]]


REFUSALS: list[tuple[tuple[str, str, Any], str]] = [
    (("PUT", "/store/items", {"namespace": ["a.b"], "key": "k", "value": NOTHING}), "no periods"),
    (("PUT", "/store/items", {"namespace": [], "key": "k", "value": NOTHING}), "one label"),
    (("PUT", "/store/items", {"namespace": ["langgraph"], "key": "k", "value": NOTHING}), "reserved"),
    (("PUT", "/store/items", {"namespace": ["a"], "key": "", "value": NOTHING}), "key"),
    (("PUT", "/store/items", {"namespace": ["a"], "key": "k", "value": [1]}), "value"),
    (("PUT", "/store/items", {"namespace": ["a"], "key": "k", "value": {"a": "\0"}}), "NUL"),
    (("PUT", "/store/items", {"namespace": ["a"], "key": "k", "value": NOTHING, "ttl": -1}), "ttl"),
    (("GET", "/store/items?namespace=a..b&key=k", None), "no periods"),
    (("GET", "/store/items?namespace=&key=k", None), "namespace"),
    (("POST", "/store/items/search", {"filter": {"a": {"$in": [1]}}}), r"unknown operator '\$in'"),
    (("POST", "/store/items/search", {"filter": {"a') OR 1=1": 1}}), "the key"),
    (("POST", "/store/items/search", {"limit": 1001}), "limit"),
    (("POST", "/store/namespaces", {"max_depth": 0}), "max_depth"),
]


@pytest.mark.parametrize(("call", "why"), REFUSALS)
async def test_refusals_name_the_field(tmp_path: Path, call: tuple[str, str, Any], why: str) -> None:
    async with client(tmp_path) as http:
        method, path, body = call
        answer = await http.request(method, path, json=body)
        assert answer.status_code == 422, answer.text
        with pytest.raises(AssertionError, match=why):
            raise AssertionError(answer.json()["detail"])


@asynccontextmanager
async def client(
    folder: Path, options: StoreOptions | None = None, **settings: Any
) -> AsyncGenerator[httpx.AsyncClient]:
    manager = RunManager(settings=Settings(**QUICK), assistants=assistants(folder, options))
    async with serving(manager=manager, **settings) as (_, http):
        yield http


async def test_time_to_live_of_items(tmp_path: Path) -> None:
    options = StoreOptions(ttl={"refresh_on_read": False, "default_ttl": 60, "sweep_interval_minutes": 1})
    async with client(tmp_path, options) as http:
        item: dict[str, Any] = {"namespace": ["a"], "key": "k", "value": NOTHING, "ttl": 0.5}
        assert (await http.put("/store/items", json=item)).status_code == 204
        item |= {"key": "default", "ttl": None}
        assert (await http.put("/store/items", json=item)).status_code == 204
        with closing(sqlite3.connect(tmp_path / "items.db")) as cx:
            stored = dict(cx.execute("SELECT key, ttl_minutes FROM store"))
        assert stored == {"k": 0.5, "default": 60}


async def test_pages_are_bounded_in_bytes(tmp_path: Path) -> None:
    async with client(tmp_path, max_page_bytes=1024) as http:
        for key in "abc":
            item: dict[str, Any] = {"namespace": ["a"], "key": key, "value": {"text": "x" * 600}}
            assert (await http.put("/store/items", json=item)).status_code == 204
        answer = await http.post("/store/items/search", json={})
        assert len(answer.json()["items"]) == 1
        assert answer.headers["x-pagination-next"] == "1"


async def test_user_sees_namespaces_with_its_id(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    alice, bob = key_for(file, Role.user, "alice"), key_for(file, Role.user, "bob")
    admin, everyone = key_for(file, Role.admin), key_for(file, Role.reader)
    async with client(tmp_path, api_keys=file) as http:
        mine: dict[str, Any] = {"namespace": ["notes", "alice"], "key": "k"}
        query = {"namespace": "notes.alice", "key": "k"}
        assert (
            await http.put("/store/items", json={**mine, "value": NOTHING}, headers=alice)
        ).status_code == 204
        for headers in (alice, admin, everyone):
            assert (await http.get("/store/items", params=query, headers=headers)).json()["key"] == "k"
        for method, path, body in (
            ("PUT", "/store/items", {**mine, "value": NOTHING}),
            ("GET", "/store/items?namespace=notes.alice&key=k", None),
            ("DELETE", "/store/items", mine),
            ("POST", "/store/items/search", {"namespace_prefix": ["notes"]}),
            ("POST", "/store/items/search", NOTHING),
        ):
            answer = await http.request(method, path, json=body, headers=bob)
            assert (answer.status_code, "'bob'" in answer.text) == (403, True), (method, path)

        async def listed(headers: dict[str, str], **body: Any) -> list[list[str]]:
            answer = await http.post("/store/namespaces", json=body, headers=headers)
            return answer.json()["namespaces"]

        theirs: dict[str, Any] = {"namespace": ["bob", "notes"], "key": "k", "value": NOTHING}
        await http.put("/store/items", json=theirs, headers=bob)
        assert await listed(alice) == [["notes", "alice"]]
        assert await listed(alice, max_depth=1) == [["notes"]]
        assert await listed(alice, prefix=["notes", "alice"]) == [["notes", "alice"]]
        assert await listed(bob, suffix=["notes"]) == [["bob", "notes"]]
        assert await listed(bob, offset=1) == []
        assert await listed(admin) == [["bob", "notes"], ["notes", "alice"]]
        listed_items = await http.post(
            "/store/items/search", json={"namespace_prefix": ["notes", "alice"]}, headers=alice
        )
        assert [item["key"] for item in listed_items.json()["items"]] == ["k"]


async def test_too_many_namespaces_are_refused_instead_of_listed_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.langgraph.items._MAX_SCANNED", 1)
    file = tmp_path / "keys.json"
    alice = key_for(file, Role.user, "alice")
    async with client(tmp_path, api_keys=file) as http:
        for label in "ab":
            item: dict[str, Any] = {"namespace": [label, "alice"], "key": "k", "value": NOTHING}
            await http.put("/store/items", json=item, headers=alice)
        refused = await http.post("/store/namespaces", json={}, headers=alice)
        assert (refused.status_code, "too many namespaces" in refused.text) == (422, True)
        assert (await http.post("/store/namespaces", json={"prefix": ["a", "alice"]}, headers=alice)).json()


async def test_functions_have_no_store() -> None:
    async with serving(manager=RunManager()) as (_, http):
        answer = await http.post("/store/namespaces", json={})
        assert (answer.status_code, "langgraph.json" in answer.text) == (501, True)


async def test_without_the_extra_the_refusal_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        """As if no package were installed."""

    monkeypatch.setattr("coordinator.langgraph.items.find_spec", missing)
    async with serving(manager=RunManager()) as (_, http):
        answer = await http.post("/store/namespaces", json={})
        assert (answer.status_code, "run-coordinator[langgraph]" in answer.text) == (501, True)


async def test_keys_have_any_characters_that_databases_hold(sdks: tuple[Sdk, Sdk]) -> None:
    a, b = sdks
    allowed = ["a\u2028b", "a\nb", "a\x85", "\U0001f600", " "]
    for key in allowed:
        await a.store.put_item(["notes"], key, {"of": key})
        item: Any = await b.store.get_item(["notes"], key)
        assert (item["key"], item["value"]) == (key, {"of": key})
    assert await keys(b, "notes") == sorted(allowed)
    for call in (a.store.put_item(["notes"], "a\0b", {}), a.store.get_item(["notes"], "a\0b")):
        with pytest.raises(httpx.HTTPStatusError, match="must not contain NUL") as refused:
            await call
        assert refused.value.response.status_code == 422
