"""`langgraph.json`: what is read, and what its errors report."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from coordinator import InvalidArgument, open_coordinator
from coordinator.langgraph.config import Configuration, page_of, read
from coordinator.langgraph.serving import assistants_of, beside, project_of
from tests.langgraph.lab import done

GRAPH = """
import operator
import os
from typing import Annotated
from typing_extensions import TypedDict
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]

async def node(state: State, runtime: Runtime) -> State:
    await runtime.store.aput(("notes",), "k", {"seen": len(state.get("log", []))})
    item = await runtime.store.aget(("notes",), "k")
    return {"log": [os.environ.get("GREETING", "none"), str(item.value["seen"])]}

builder = StateGraph(State)
builder.add_node("node", node)
builder.add_edge(START, "node")
graph = builder.compile()

def make(config):
    return builder

class Holder:
    inner = builder
"""


@pytest.fixture(autouse=True)
def imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports, puts on the path and into the environment is gone after it."""
    monkeypatch.setenv("GREETING", "")
    monkeypatch.delenv("GREETING")
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield
    for name in set(sys.modules) - modules:
        if not name.startswith(("langgraph", "coordinator", "langchain")):
            del sys.modules[name]


def write(folder: Path, content: Any, graph: str = GRAPH) -> Path:
    (folder / "agent.py").write_text(graph)
    path = folder / "langgraph.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def configuration(folder: Path, **keys: Any) -> Configuration:
    return read(write(folder, {"graphs": {"agent": "./agent.py:graph"}, **keys}))


def load(folder: Path, **keys: Any) -> dict[str, Any]:
    path = write(folder, {"graphs": {"agent": "./agent.py:graph"}, **keys})
    return dict(assistants_of(path, f"sqlite:///{folder}/runs.db"))


# -- what is read


async def test_graphs_run_with_environment_and_store(tmp_path: Path) -> None:
    graphs = {
        "agent": "./agent.py:graph",
        "described": {"path": "agent.py:make", "description": "A text."},
        "dotted": "agent:Holder.inner",
    }
    extra = {"loud": {"graph": "agent", "config": {"tags": ["x"]}, "description": "Loud."}}
    served = load(tmp_path, graphs=graphs, env={"GREETING": "hello"}, assistants=extra)
    assert list(served) == ["agent", "described", "dotted", "loud"]
    async with open_coordinator(f"sqlite:///{tmp_path}/runs.db", assistants=served) as manager:
        for name in served:
            assert await done(manager, name, thread=name, input={"log": ["x"]}) == {
                "log": ["x", "hello", "1"]
            }
        texts = {name: (await manager.assistants.named(name).describe()).text for name in served}
    assert texts == {"agent": None, "described": "A text.", "dotted": None, "loud": "Loud."}
    assert {"runs-checkpoints.db", "runs-items.db"} <= files(tmp_path)


async def test_everything_is_in_memory_if_the_runs_are(tmp_path: Path) -> None:
    served = assistants_of(write(tmp_path, {"graphs": {"agent": "./agent.py:graph"}}), "memory://")
    before = files(tmp_path)
    async with open_coordinator("memory://", assistants=served) as manager:
        assert (await done(manager, "agent", input={"log": []}))["log"][-1] == "0"
        assert (await done(manager, "agent", input={"log": []}))["log"][-1] == "2"
    assert files(tmp_path) == before


async def test_urls_of_checkpoints_and_store(tmp_path: Path) -> None:
    served = load(
        tmp_path,
        checkpointer={"url": "sqlite:///mine.db"},
        store={"url": "sqlite:///items.db", "ttl": {"default_ttl": 10}},
    )
    async with open_coordinator(f"sqlite:///{tmp_path}/runs.db", assistants=served) as manager:
        await done(manager, "agent", input={"log": []})
    assert {"mine.db", "items.db"} <= files(tmp_path)


async def test_store_is_searched_by_meaning(tmp_path: Path) -> None:
    source = GRAPH.replace(
        'item = await runtime.store.aget(("notes",), "k")',
        'await runtime.store.aput(("notes",), "cat", {"text": "cat"})\n'
        '    await runtime.store.aput(("notes",), "dog", {"text": "dog"})\n'
        '    served = await runtime.store.asearch(("notes",), query="cat", limit=1)\n'
        '    return {"log": [served[0].key]}',
    )
    (tmp_path / "embedding.py").write_text(
        "def embed(texts):\n    return [[float(text.count('c')), float(text.count('d'))] for text in texts]\n"
    )
    index = {"dims": 2, "embed": "./embedding.py:embed", "fields": ["text"]}
    path = write(tmp_path, {"graphs": {"agent": "./agent.py:graph"}, "store": {"index": index}}, source)
    async with open_coordinator("memory://", assistants=assistants_of(path, "memory://")) as manager:
        assert (await done(manager, "agent", input={"log": []}))["log"] == ["cat"]
    if not hasattr(sqlite3.Connection, "enable_load_extension"):
        on_disk = assistants_of(path, f"sqlite:///{tmp_path}/runs.db")
        with pytest.raises(InvalidArgument, match=r"store.index: this Python cannot load the extension"):
            async with open_coordinator(f"sqlite:///{tmp_path}/runs.db", assistants=on_disk):
                pass


@pytest.mark.skipif(find_spec("langchain") is not None, reason="langchain is installed")
def test_missing_package_of_a_model_is_named(tmp_path: Path) -> None:
    index = {"dims": 2, "embed": "openai:text-embedding-3-small"}
    path = write(tmp_path, {"graphs": {"agent": "./agent.py:graph"}, "store": {"index": index}})
    why = r"store.index.embed: 'openai:.*' needs langchain: pip install langchain langchain-openai$"
    with pytest.raises(InvalidArgument, match=why):
        assistants_of(path, "memory://")


def test_checkpoints_are_beside_the_runs() -> None:
    assert beside("sqlite:////a/b%20c/runs.db", "checkpoints") == "sqlite:////a/b%20c/runs-checkpoints.db"
    assert beside("sqlite:///runs.db", "items") == "sqlite:///runs-items.db"
    assert beside("postgresql://h/d", "checkpoints") == "postgresql://h/d"
    assert beside("memory://", "checkpoints") == "memory://"


def test_package_of_a_graph_is_imported_once(tmp_path: Path) -> None:
    package = tmp_path / "src" / "mine_for_graphs"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "tools.py").write_text("NAME = 'relative'\n")
    (package / "agent.py").write_text("from .tools import NAME\n" + GRAPH)
    load(
        tmp_path, graphs={"one": "./src/mine_for_graphs/agent.py:graph", "two": "mine_for_graphs.agent:make"}
    )
    assert "mine_for_graphs.agent" in sys.modules
    assert not [name for name in sys.modules if name.startswith("graph_agent_")]


def test_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder in ("one-folder", "two-folder"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "agent.py").write_text(f"{GRAPH}\nFOLDER = {folder!r}\n")
    paths = {name: f"./{name}-folder/agent.py:graph" for name in ("one", "two")}
    assert list(load(tmp_path, graphs=paths)) == ["one", "two"]
    modules = [module for name, module in sys.modules.items() if name.startswith("graph_agent_")]
    assert sorted(module.FOLDER for module in modules) == ["one-folder", "two-folder"]


def test_file_of_variables(tmp_path: Path) -> None:
    text = "# a comment\nA=1\nexport B = two words # behind\nC='x # y'\nD=\"q\" # behind\n\nE=\n"
    (tmp_path / ".env").write_text(text)
    assert configuration(tmp_path, env=".env").environment() == {
        "A": "1", "B": "two words", "C": "x # y", "D": "q", "E": "",
    }  # fmt: skip


def test_variables_that_are_set_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREETING", "mine")
    load(tmp_path, env={"GREETING": "theirs"})
    assert os.environ["GREETING"] == "mine"


def test_local_dependencies_are_importable(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "helper_for_graphs.py").write_text("X = 1\n")
    path = write(
        tmp_path,
        {"graphs": {"agent": "./agent.py:graph"}, "dependencies": ["langchain", "./lib"]},
        "import helper_for_graphs\n" + GRAPH,
    )
    assert list(assistants_of(path, "memory://")) == ["agent"]


def test_page_is_relative_to_the_file(tmp_path: Path) -> None:
    graphs = {"agent": "./agent.py:graph"}
    path = write(tmp_path, {"graphs": graphs, "page": "web/dist"})
    assert page_of(path) == tmp_path / "web" / "dist"
    path.write_text(json.dumps({"graphs": graphs}))
    assert page_of(path) is None


def test_keys_without_effect_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        configuration(
            tmp_path,
            python_version="3.12",
            dockerfile_lines=[],
            colour="red",
            webhooks={"x": 1},
            http={"logging_headers": {}, "mystery": 1, "disable_mcp": True},
            auth={"disable_studio_auth": True},
            checkpointer={"ttl": {}},
            graphs={"agent": {"path": "./agent.py:graph", "owner": "me"}},
        )
    named = [record.getMessage().split("the key ")[1].split(" ")[0] for record in caplog.records]
    assert sorted(named) == sorted(
        [
            "colour",
            "webhooks.x",
            "http.logging_headers",
            "http.mystery",
            "auth.disable_studio_auth",
            "checkpointer.ttl",
            "graphs.agent.owner",
        ]
    )
    assert "http.logging_headers has no effect: headers are never logged" in caplog.text


# -- mistakes

MISTAKES: dict[str, tuple[Any, str]] = {
    "not JSON": ("{", "langgraph.json: is not JSON: .* line 1"),
    "a list": ("[]", "must be an object"),
    "no graphs": ({}, 'has no key "graphs": add'),
    "empty graphs": ({"graphs": {}}, "langgraph.json: graphs: names no graph, add one: "),
    "no path": ({"graphs": {"a": {}}}, "graphs.a.path: Field required"),
    "auth": (
        {"graphs": {"a": "./agent.py:graph"}, "auth": {"path": "./agent.py:os"}},
        "auth.path: is of type module, not a langgraph_sdk.Auth",
    ),
    "auth without a file": (
        {"graphs": {"a": "./agent.py:graph"}, "auth": {"path": "./no.py:auth"}},
        "auth.path: there is no file .*/no.py",
    ),
    "misspelt auth": (
        {"graphs": {"a": "x:y"}, "auth": {"pat": "x:y"}},
        "auth.pat: is unknown: there are path",
    ),
    "app": (
        {"graphs": {"a": "./agent.py:graph"}, "http": {"app": "./no.py:app"}},
        "http.app: there is no file .*/no.py",
    ),
    "prefix": (
        {"graphs": {"a": "x:y"}, "http": {"mount_prefix": "api/"}},
        "http.mount_prefix: String should",
    ),
    "cookies of all origins": (
        {"graphs": {"a": "x:y"}, "http": {"cors": {"allow_origins": ["*"], "allow_credentials": True}}},
        "http.cors.allow_credentials: must not be combined",
    ),
    "pattern": (
        {"graphs": {"a": "./agent.py:graph"}, "http": {"cors": {"allow_origin_regex": "("}}},
        "http.cors.allow_origin_regex: is no regular expression",
    ),
    "misspelt restriction": (
        {"graphs": {"a": "x:y"}, "webhooks": {"url": {"allowed_domain": ["x"]}}},
        "webhooks.url.allowed_domain: is unknown",
    ),
    "domain": (
        {"graphs": {"a": "x:y"}, "webhooks": {"url": {"allowed_domains": ["a.*.b"]}}},
        "webhooks.url.allowed_domains.0: String should match",
    ),
    "field": (
        {"graphs": {"a": "./agent.py:graph"}, "webhooks": {"allowed_fields": ["value"]}},
        "webhooks.allowed_fields: has value; there are .*values",
    ),
    "variable of a header": (
        {"graphs": {"a": "./agent.py:graph"}, "webhooks": {"headers": {"x": "${{ env.HOME }}"}}},
        "webhooks.headers.x: the variable HOME must begin with LG_WEBHOOK_",
    ),
    "unset variable": (
        {"graphs": {"a": "./agent.py:graph"}, "webhooks": {"headers": {"x": "a ${{ env.LG_WEBHOOK_NO }}"}}},
        "webhooks.headers.x: the variable LG_WEBHOOK_NO is not set",
    ),
    "other template": (
        {"graphs": {"a": "./agent.py:graph"}, "webhooks": {"headers": {"x": "${{ run.id }}"}}},
        "webhooks.headers.x: has .* only .* is possible",
    ),
    "header of the server": (
        {"graphs": {"a": "./agent.py:graph"}, "webhooks": {"headers": {"Webhook-Signature": "x"}}},
        "webhooks.headers.Webhook-Signature: is not the name of a header, or one that the server sets",
    ),
    "assistant of no graph": (
        {"graphs": {"a": "x:y"}, "assistants": {"b": {"graph": "c"}}},
        "assistants.b.graph: there is no graph 'c'; the key graphs has a",
    ),
    "two of a name": ({"graphs": {"a": "x:y"}, "assistants": {"a": {"graph": "a"}}}, "choose another one"),
    "no folder": (
        {"graphs": {"a": "x:y"}, "dependencies": ["./no"]},
        "dependencies: there is no folder .*/no",
    ),
    "no variables": ({"graphs": {"a": "x:y"}, "env": ".env"}, "env: .*cannot be read.*create it, or remove"),
    "no attribute": ({"graphs": {"a": "./agent.py"}}, "graphs.a: './agent.py' does not name an object"),
    "no file": ({"graphs": {"a": "./no.py:graph"}}, "graphs.a: there is no file .*/no.py"),
    "no module": ({"graphs": {"a": "no_such_module:graph"}}, "graphs.a: there is no module 'no_such_module'"),
    "no such name": ({"graphs": {"a": "./agent.py:grph"}}, "graphs.a: ./agent.py has no 'grph'"),
    "no graph": ({"graphs": {"a": "./agent.py:os"}}, "graphs.a: 'a' is of type module, not a StateGraph"),
    "checkpointer": (
        {"graphs": {"a": "./agent.py:graph"}, "checkpointer": {"url": "mysql://x"}},
        "checkpointer.url: must be sqlite:///path or postgresql://",
    ),
    "store": ({"graphs": {"a": "./agent.py:graph"}, "store": {"url": "x"}}, "store.url: must be sqlite"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_is_named_with_file_and_key(tmp_path: Path, case: str) -> None:
    content, why = MISTAKES[case]
    with pytest.raises(InvalidArgument, match=why) as refused:
        assistants_of(write(tmp_path, content), "memory://")
    assert str(tmp_path / "langgraph.json") in str(refused.value)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("1/0", "ZeroDivisionError"),
        ("import no_such_module", "ModuleNotFoundError: .*no_such_module"),
        ("raise SystemExit(3)", "SystemExit"),
        ("def broken(:", r"SyntaxError: invalid syntax \(.*agent.py, line 3: def broken\(:\)"),
    ],
)
@pytest.mark.parametrize("target", ["./agent.py:graph", "./a-b/agent.py:graph"])
def test_failure_of_a_module_is_located(tmp_path: Path, source: str, why: str, target: str) -> None:
    path = write(tmp_path, {"graphs": {"a": target}}, f"\n\n{source}\n")
    (tmp_path / "a-b").mkdir()
    (tmp_path / "a-b" / "agent.py").write_text(f"\n\n{source}\n")
    with pytest.raises(InvalidArgument, match=rf"graphs.a: importing .* raised {why}") as refused:
        assistants_of(path, "memory://")
    assert "agent.py, line 3" in str(refused.value)
    assert "importlib" not in str(refused.value)


# -- what is added to a gateway


def test_webhooks_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_B", "")
    monkeypatch.delenv("HOOK_B")
    monkeypatch.setenv("HOOK_A", "one")
    webhooks = {
        "env_prefix": "HOOK_",
        "headers": {"x-a": "<${{ env.HOOK_A }}-${{env.HOOK_B}}>", "x-b": "plain"},
        "url": {"require_https": True, "allowed_domains": ["*.Example.com"], "allowed_ports": [443]},
        "allowed_fields": ["run_id"],
    }
    path = write(
        tmp_path,
        {
            "graphs": {"agent": "./agent.py:graph"},
            "env": {"HOOK_A": "other", "HOOK_B": "two"},
            "webhooks": webhooks,
            "http": {"disable_webhooks": True},
        },
    )
    policy = project_of(path, "memory://")[1].webhooks
    assert policy.headers == {"x-a": "<one-two>", "x-b": "plain"}
    assert (policy.https, policy.domains, policy.ports) == (True, ("*.example.com",), frozenset({443}))
    assert (policy.fields, policy.disabled) == (frozenset({"run_id"}), True)
    assert "<one" not in repr(policy)


def test_assistants_alone_are_refused_if_the_file_has_auth(tmp_path: Path) -> None:
    (tmp_path / "auth.py").write_text(
        "from langgraph_sdk import Auth\nauth = Auth()\n@auth.authenticate\nasync def f(): return 'ann'\n"
    )
    path = write(tmp_path, {"graphs": {"a": "./agent.py:graph"}, "auth": {"path": "./auth.py:auth"}})
    assert project_of(path, "memory://")[1].handlers is not None
    with pytest.raises(InvalidArgument, match=r"auth\.path: needs a gateway"):
        assistants_of(path, "memory://")
