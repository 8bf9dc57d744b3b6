"""What servers list of graphs, and the users with which factories are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk.runtime import ServerRuntime

from coordinator import InvalidArgument, RunManager, Settings
from coordinator.gateway import GatewaySettings, create_gateway
from coordinator.gateway.caller import Caller, Role
from coordinator.langgraph import GraphAssistant, Preset, sqlite_states
from coordinator.langgraph.loading import GraphEntry
from coordinator.schemas import User
from tests.langgraph import graphs
from tests.support.asgi import serving
from tests.support.gateways import gateways


def of_one_graph(folder: Path) -> dict[str, Any]:
    states, entry = sqlite_states(folder / "checkpoints.db"), GraphEntry("research", graphs.styled())
    preset = Preset(context={"tone": "brief"})
    return {
        "research": GraphAssistant(entry, states, name="research", text="Searches."),
        "brief": GraphAssistant(entry, states, name="brief", preset=preset),
        "other": GraphAssistant(graphs.chain("a"), states, name="other"),
    }


async def test_assistants_of_a_graph_have_its_id(tmp_path: Path, namespace: str) -> None:
    agents = lambda: of_one_graph(tmp_path)  # noqa: E731 - for each gateway
    async with gateways(1, tmp_path, None, namespace, agents=agents) as (one,):
        listed = await one.sdk.assistants.search(graph_id="research")
        assert [(each["name"], each["graph_id"]) for each in listed] == [
            ("brief", "research"),
            ("research", "research"),
        ]
        assert await one.sdk.assistants.count(graph_id="research") == 2
        brief = listed[0]["assistant_id"]
        assert (await one.sdk.assistants.get(brief))["graph_id"] == "research"
        assert (await one.sdk.assistants.get_schemas(brief))["graph_id"] == "research"
        thread = (await one.sdk.threads.create())["thread_id"]
        assert (await one.sdk.runs.wait(thread, brief, input={"log": []}))["log"] == ["brief/None"]
        metadata = (await one.sdk.threads.get(thread))["metadata"]
        assert metadata == {"graph_id": "research", "assistant_id": brief}
        await one.sdk.threads.update_state(thread, {"log": ["x"]})
        assert (await one.sdk.threads.search(metadata={"graph_id": "research"}))[0]["thread_id"] == thread


class Opened:
    """A factory that notes with which reason and permissions it is called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[str, ...]]] = []

    def factory(self, runtime: ServerRuntime[Any]) -> Any:
        permissions = () if runtime.user is None else tuple(runtime.user.permissions)
        self.calls.append((runtime.access_context, permissions))
        return graphs.chain("a")


def serving_graph(assistant: GraphAssistant) -> RunManager:
    manager = RunManager(settings=Settings(tick=0.05, grace=0))
    manager.assistants.register(assistant)
    return manager


async def test_listing_opens_no_graph(tmp_path: Path) -> None:
    opened = Opened()
    made = GraphAssistant(opened.factory, sqlite_states(tmp_path / "c.db"), name="made", text="A text.")
    async with serving(manager=serving_graph(made)) as (_, client):
        listed = (await client.post("/assistants/search", json={})).json()
        assert ("made", "A text.") in [(each["name"], each["description"]) for each in listed]
        assert (await client.post("/assistants/count", json={})).json() == 2
        assert (await client.get("/assistants/made")).json()["description"] == "A text."
        assert opened.calls == []


async def test_graphs_are_opened_with_the_permissions_of_the_user(tmp_path: Path) -> None:
    opened = Opened()
    made = GraphAssistant(opened.factory, sqlite_states(tmp_path / "c.db"), name="made")

    async def authenticate(request: Any) -> Caller:
        del request
        return Caller("alice", Role.user, permissions=("p",))

    manager = serving_graph(made)
    async with serving(manager=manager, authenticate=authenticate) as (_, client):
        body = {"metadata": {"graph_id": "made"}}
        thread = (await client.post("/threads", json=body)).json()["thread_id"]
        await client.post(f"/threads/{thread}/state", json={"values": {"log": ["x"]}, "as_node": "a"})
        await client.get(f"/threads/{thread}/state")
        await client.post(f"/threads/{thread}/history", json={})
        steps = [{"updates": [{"values": {"log": ["x"]}, "as_node": "a"}]}]
        await client.post("/threads", json={**body, "supersteps": steps})
        assert opened.calls == [
            ("threads.update", ("p",)),
            ("threads.read", ("p",)),
            ("threads.read", ("p",)),
            ("threads.read", ("p",)),
            ("threads.update", ("p",)),
            ("threads.read", ("p",)),
        ]
        with pytest.raises(InvalidArgument, match="user"):
            await manager.threads.state(thread, user_id="alice", user=User("bob"))


@pytest.mark.parametrize(
    ("setting", "offered", "alone"), [(None, False, True), (True, True, True), (False, False, False)]
)
def test_demo_assistant_is_offered_if_there_is_no_other(
    tmp_path: Path, setting: bool | None, offered: bool, alone: bool
) -> None:
    settings = GatewaySettings(demo_assistant=setting)
    made = GraphAssistant(graphs.chain("a"), sqlite_states(tmp_path / "c.db"), name="made")
    beside, empty = serving_graph(made), RunManager(settings=Settings(tick=0.05))
    for manager, expected in ((beside, offered), (empty, alone)):
        create_gateway(manager, settings=settings)
        assert ("agent" in manager.assistants) is expected
