"""Graphs whose runs, checkpoints and store are in one PostgreSQL database."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from coordinator import InvalidArgument, open_coordinator
from coordinator.langgraph.serving import assistants_of
from tests.langgraph.lab import done, view
from tests.langgraph.test_config import GRAPH
from tests.support.postgres import PASSWORD, Database
from tests.support.teams import QUICK


async def test_two_workers_share_threads_and_items(
    tmp_path: Path, shared_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "postgres_agent.py").write_text(GRAPH)
    path = tmp_path / "langgraph.json"
    path.write_text(json.dumps({"graphs": {"agent": "./postgres_agent.py:graph"}}))
    monkeypatch.setattr(sys, "path", sys.path[:])
    name = f"graphs_{uuid4().hex[:12]}"
    await shared_postgres.execute(f"CREATE DATABASE {name}")
    url = urlunsplit(urlsplit(shared_postgres.url)._replace(path=f"/{name}"))
    try:
        async with (
            open_coordinator(url, assistants=assistants_of(path, url), **QUICK) as a,
            open_coordinator(url, assistants=assistants_of(path, url), **QUICK) as b,
        ):
            assert (await done(a, "agent", input={"log": []}))["log"] == ["none", "0"]
            assert (await done(b, "agent", input={"log": []}))["log"] == ["none", "0", "none", "2"]
            assert (await view(a)).metadata["step"] == 4
    finally:
        await shared_postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(shared_postgres: Database) -> AsyncGenerator[str]:
    """Its name."""
    name = f"graphs_{uuid4().hex[:12]}"
    await shared_postgres.execute(f"CREATE DATABASE {name}")
    yield name
    await shared_postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


def searching(folder: Path, **index: Any) -> Path:
    """A file whose graph puts three notes and searches them by meaning: by how many letters they share."""
    (folder / "embed.py").write_text(EMBED)
    (folder / "searching_agent.py").write_text(SEARCHING)
    chosen = {"dims": 26, "embed": "./embed.py:embed", "fields": ["text"], **index}
    path = folder / "langgraph.json"
    path.write_text(
        json.dumps({"graphs": {"agent": "./searching_agent.py:graph"}, "store": {"index": chosen}})
    )
    return path


EMBED = """
async def embed(texts):
    return [[float(text.lower().count(chr(97 + n))) for n in range(26)] for text in texts]
"""
SEARCHING = """
from typing_extensions import TypedDict
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

class State(TypedDict, total=False):
    query: str
    keys: list

async def node(state, runtime: Runtime):
    for key, text in (("a", "zebra zoo"), ("b", "kitten"), ("c", "house")):
        await runtime.store.aput(("notes",), key, {"text": text, "other": "kitten"})
    items = await runtime.store.asearch(("notes",), query=state["query"], limit=2)
    assert items[0].score > items[1].score
    return {"keys": [item.key for item in items]}

builder = StateGraph(State)
builder.add_node("node", node)
builder.add_edge(START, "node")
graph = builder.compile()
"""


async def search_by_meaning(path: Path, url: str) -> None:
    async with open_coordinator(url, assistants=assistants_of(path, url), **QUICK) as manager:
        for query, key in (("tent kin", "b"), ("zeb", "a"), ("hose", "c")):
            matching = await done(manager, "agent", input={"query": query})
            assert matching["keys"][0] == key


async def test_store_in_postgresql_is_searched_by_meaning_if_it_has_pgvector(
    tmp_path: Path, shared_postgres: Database, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    url = urlunsplit(urlsplit(shared_postgres.url)._replace(path=f"/{database}"))
    async with shared_postgres.connection() as cx:
        installed = await cx.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'")
    if installed:
        await search_by_meaning(searching(tmp_path), url)
    else:
        with pytest.raises(InvalidArgument, match=r"store.index: .* is not available\): install pgvector"):
            await search_by_meaning(searching(tmp_path), url)


@pytest.mark.skipif(
    not hasattr(sqlite3.Connection, "enable_load_extension"),
    reason="this Python loads no extensions of SQLite",
)
async def test_store_in_sqlite_is_searched_by_meaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    await search_by_meaning(searching(tmp_path), f"sqlite:///{tmp_path}/runs.db")


async def test_search_by_meaning_without_pgvector_is_refused(
    tmp_path: Path, shared_postgres: Database, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The role may not create the extension, which is not there yet."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    role = f"role_{database}"
    await shared_postgres.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'", f"ALTER DATABASE {database} OWNER TO {role}"
    )
    url = urlunsplit(urlsplit(shared_postgres.as_role(role))._replace(path=f"/{database}"))
    try:
        with pytest.raises(
            InvalidArgument, match=r"store.index: the database cannot have the extension vector"
        ):
            async with open_coordinator(url, assistants=assistants_of(searching(tmp_path), url), **QUICK):
                pass
    finally:
        await shared_postgres.execute(f"ALTER DATABASE {database} OWNER TO CURRENT_USER")
        await shared_postgres.execute(f"DROP DATABASE {database} WITH (FORCE)", f"CREATE DATABASE {database}")
        await shared_postgres.execute(f"DROP ROLE {role}")
