"""`coordinator serve` and `dev` with graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import AuthenticationError, NotFoundError

from tests.langgraph.test_config import GRAPH
from tests.support.command_line import USAGE, cli, interpreter
from tests.support.gateways import Sdk
from tests.support.served import served

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "langgraph"
CONTENT = {"graphs": {"agent": "./agent.py:graph"}, "env": {"GREETING": "hello"}}


def project(folder: Path, content: object = CONTENT) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "agent.py").write_text(GRAPH)
    (folder / "langgraph.json").write_text(json.dumps(content))
    return folder


async def answer(url: str, graph: str = "agent") -> list[str]:
    sdk = get_client(url=url)
    try:
        values: dict[str, list[str]] = await sdk.runs.wait(None, graph, input={"log": []})  # type: ignore[assignment]
        return values["log"]
    finally:
        await sdk.aclose()


async def test_serve_a_file_with_two_workers(tmp_path: Path) -> None:
    project(tmp_path)
    async with served("serve", "langgraph.json", "--workers", "2", "--redis", "", folder=tmp_path) as server:
        assert (await answer(await server.up()))[0] == "hello"
        assert "agent" in server.output
        assert (tmp_path / ".coordinator" / "runs-checkpoints.db").exists()


async def test_dev_finds_the_file_of_its_folder(tmp_path: Path) -> None:
    project(tmp_path)
    async with served("dev", "--redis", "", folder=tmp_path) as server:
        url = await server.up()
        assert (await answer(url))[0] == "hello"
        (tmp_path / "agent.py").write_text(GRAPH.replace('os.environ.get("GREETING", "none")', '"edited"'))
        await server.wait_for_line(r"worker \d+ \(pid \d+\) listens", times=2)
        assert (await answer(url))[0] == "edited"
        project(tmp_path, {"graphs": {"renamed": "./agent.py:graph"}})
        await server.wait_for_line(r"worker \d+ \(pid \d+\) listens", times=3)
        assert len(await answer(url, "renamed")) == 2


def question(text: str) -> dict[str, object]:
    return {"messages": [{"type": "human", "content": text}]}


def last_text(values: Any) -> str:
    return values["messages"][-1]["content"]


async def test_dev_of_the_example(tmp_path: Path) -> None:
    """A folder that is not the working folder. Its page: tests/clients/test_langgraph_page.py."""
    options = ("--no-reload", "--redis", "")
    async with served("dev", str(EXAMPLE), *options, folder=tmp_path, DESK_PAUSE="0") as server:
        sdk: Sdk = get_client(url=await server.up())
        await server.wait_for_line(rf"page +{server.url}/page/$")
        try:
            small = await sdk.runs.wait(None, "desk", input=question("refund 20 for order 7"))
            assert last_text(small) == "20 € are on their way back for order 7."
            thread = (await sdk.threads.create())["thread_id"]
            large = await sdk.runs.wait(thread, "desk", input=question("refund 500 for order 8"))
            assert "__interrupt__" in large
            resume = {"decisions": [{"type": "approve"}]}
            paid = await sdk.runs.wait(thread, "desk", command={"resume": resume})
            assert last_text(paid) == "500 € are on their way back for order 8."
        finally:
            await sdk.aclose()


async def test_example_of_the_banner_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text("def graph():\n    print('called')\n    raise SystemExit(1)\n")
    (tmp_path / "langgraph.json").write_text(json.dumps({"graphs": {"a b": "./made.py:graph"}}))
    async with served("dev", "--no-reload", "--redis", "", folder=tmp_path) as server:
        url = await server.up()
        await server.wait_for_line(rf"curl -s {url}/assistants/a%20b/schemas$")
        assert "assistants a b\n" in server.output
        assert "called" not in server.output


async def test_serve_a_graph_object(tmp_path: Path) -> None:
    project(tmp_path)
    options = ("--assistants", "agent:graph", "--redis", "")
    async with served("serve", *options, folder=tmp_path, GREETING="hi") as server:
        assert (await answer(await server.up(), "graph"))[0] == "hi"


async def test_mistake_in_the_file_is_one_line(tmp_path: Path) -> None:
    project(tmp_path, {"graphs": {"agent": "./agent.py:grph"}})
    refused = await cli("serve", "langgraph.json", "--port", "0", "--redis", "", cwd=tmp_path)
    assert refused.code == USAGE
    assert "langgraph.json: graphs.agent: ./agent.py has no 'grph'" in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.parametrize("key", [{"page": "web"}, {}], ids=["key", "option"])
async def test_page_without_an_index_is_refused(tmp_path: Path, key: dict[str, str]) -> None:
    project(tmp_path, {**CONTENT, **key})
    option = () if key else ("--page", "web")
    refused = await cli("serve", "langgraph.json", *option, "--port", "0", "--redis", "", cwd=tmp_path)
    assert refused.code == USAGE
    assert "web has no index.html: name the folder of the built page" in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("serve", "no.json"), "there is no file no.json"),
        (("serve", "."), "there is no file langgraph.json"),
        (("serve", "agent.py"), "agent.py is not a langgraph.json"),
        (("serve", "agent.py", "--assistants", "a:b"), "both agent.py and --assistants a:b are given"),
    ],
    ids=["no file", "no file in the folder", "no json", "both"],
)
async def test_wrong_argument_is_refused(tmp_path: Path, arguments: tuple[str, ...], why: str) -> None:
    (tmp_path / "agent.py").write_text(GRAPH)
    refused = await cli(*arguments, cwd=tmp_path)
    assert refused.code == USAGE
    assert why in refused.err


async def test_help_does_not_import_langgraph() -> None:
    program = (
        "import sys; sys.argv = ['coordinator', 'serve', '--help']; from coordinator.cli import main; main();"
        "print([name for name in sys.modules if name.startswith('lang')])"
    )
    shown = await interpreter("-c", program)
    assert shown.out.splitlines()[-1] == "[]"


AUTH = """
from langgraph_sdk import Auth

auth = Auth()

@auth.authenticate
async def authenticate(authorization: str | None) -> dict:
    if not (authorization or "").startswith("Bearer "):
        raise Auth.exceptions.HTTPException(status_code=401, detail="no token")
    return {"identity": authorization.removeprefix("Bearer "), "permissions": ["chat"], "team": "red"}

@auth.on
async def own(ctx, value):
    value.setdefault("metadata", {})["owner"] = ctx.user.identity
    return {"owner": ctx.user.identity}
"""
SHOWING = """
from typing_extensions import TypedDict
from langgraph.graph import START, StateGraph
from langgraph_sdk.runtime import ServerRuntime

class State(TypedDict, total=False):
    shown: dict

async def node(state, config):
    keys = config["configurable"]
    user = keys["langgraph_auth_user"]
    return {"shown": {
        "user": [user.identity, user["team"], keys["langgraph_auth_user_id"],
                 keys["langgraph_auth_permissions"]],
        "header": keys.get("x-lang"),
    }}

def graph(runtime: ServerRuntime):
    assert runtime.ensure_user().permissions == ["chat"]
    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder
"""
APP = """
from contextlib import asynccontextmanager
from fastapi import FastAPI

@asynccontextmanager
async def lifespan(app):
    app.state.ready = True
    yield

app = FastAPI(lifespan=lifespan)

@app.get("/mine")
async def mine():
    return {"ready": app.state.ready}
"""


async def test_functions_and_app_of_a_file_with_two_workers(tmp_path: Path) -> None:
    """After a restart as well."""
    for name, source in (("auth", AUTH), ("agent", SHOWING), ("app", APP)):
        (tmp_path / f"{name}.py").write_text(source)
    content = {
        "graphs": {"agent": "./agent.py:graph"},
        "auth": {"path": "./auth.py:auth", "disable_studio_auth": True},
        "http": {"app": "./app.py:app", "configurable_headers": {"includes": ["x-lang"]}},
    }
    (tmp_path / "langgraph.json").write_text(json.dumps(content))
    options = ("serve", "langgraph.json", "--workers", "2", "--redis", "")
    thread = ""
    for _ in range(2):
        async with served(*options, folder=tmp_path) as server:
            url = await server.up()
            assert "callers are identified by auth.path" in server.output
            assert "auth.disable_studio_auth has no effect" in server.output
            users: list[Sdk] = [
                get_client(url=url, headers={"authorization": f"Bearer {name}", "x-lang": "de"})
                for name in ("ann", "bob")
            ]
            ann, bob = users
            async with ann, bob, get_client(url=url) as unknown:
                with pytest.raises(AuthenticationError):
                    await unknown.threads.create()
                thread = thread or (await ann.threads.create())["thread_id"]
                for _ in range(4):  # at both workers
                    with pytest.raises(NotFoundError):
                        await bob.threads.get(thread)
                    shown = await ann.runs.wait(thread, "agent", input={})
                    assert shown == {"shown": {"user": ["ann", "red", "ann", ["chat"]], "header": "de"}}
                assert [one["thread_id"] for one in await ann.threads.search()] == [thread]
                assert await bob.threads.search() == []
            async with httpx.AsyncClient(base_url=url) as raw:
                assert (await raw.get("/mine")).json() == {"ready": True}


async def test_auth_and_keys_together_are_refused(tmp_path: Path) -> None:
    project(tmp_path, {**CONTENT, "auth": {"path": "./auth.py:auth"}})
    (tmp_path / "auth.py").write_text(AUTH)
    arguments = ("serve", "langgraph.json", "--port", "0", "--redis", "", "--api-keys", "keys.json")
    refused = await cli(*arguments, cwd=tmp_path)
    assert refused.code == USAGE
    assert "auth.path: cannot be combined with API keys" in refused.err
