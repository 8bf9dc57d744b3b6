"""The context of a run: `context` or `config.configurable` of its request, and the defaults of the schema."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel
from typing_extensions import TypedDict

from coordinator import InvalidArgument, open_coordinator
from coordinator.langgraph import GraphAssistant, Preset, sqlite_states
from tests.langgraph import graphs
from tests.langgraph.lab import done, view, workers
from tests.support.teams import QUICK


class Model(BaseModel):
    tone: str = "plain"


class Typed(TypedDict, total=False):
    tone: str


@dataclass
class Needy:
    name: str
    tone: str = "plain"


SCHEMAS: dict[str, Any] = {"dataclass": graphs.Style, "model": Model, "typed": Typed, "none": None}


def with_context(schema: Any) -> Any:
    """Logs the context, and what the config has for `tone` and `model`."""

    async def node(state: graphs.Log, runtime: Runtime[Any], config: Any) -> graphs.Log:
        context: Any = runtime.context
        keys: Any = config["configurable"]
        tone = context.tone if hasattr(context, "tone") else context and context["tone"]
        return {"log": [f"{type(context).__name__} {tone}", f"{keys.get('tone')} {keys.get('model')}"]}

    node.__annotations__["config"] = "RunnableConfig"
    builder: Any = StateGraph(graphs.Log, context_schema=schema)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder


@pytest.mark.parametrize(("name", "accepted"), [("dataclass", False), ("model", True), ("typed", True)])
async def test_unknown_keys_are_treated_as_by_the_engine(tmp_path: Path, name: str, accepted: bool) -> None:
    builder, context = with_context(SCHEMAS[name]), {"tone": "warm", "unknown": 1}
    try:
        by_itself = (await builder.compile().ainvoke({"log": []}, context=context))["log"][0]
    except TypeError:
        by_itself = None
    assert (by_itself is not None) is accepted
    async with workers(tmp_path, {name: builder}, 1) as (manager,):
        if accepted:
            assert (await done(manager, name, input={}, context=context))["log"][0] == by_itself
        else:
            with pytest.raises(InvalidArgument, match="unknown"):
                await done(manager, name, input={}, context=context)


async def test_context_of_a_run(tmp_path: Path) -> None:
    typed = {"dataclass": "Style", "model": "Model", "typed": "dict", "none": "dict"}
    async with workers(tmp_path, {name: with_context(schema) for name, schema in SCHEMAS.items()}, 1) as (a,):

        async def logged(name: str, **request: Any) -> list[str]:
            return (await done(a, name, thread=f"{name}{request}", input={}, **request))["log"]

        for name, kind in typed.items():
            unset = f"{kind} plain" if kind in ("Style", "Model") else "NoneType None"
            empty: tuple[dict[str, Any], ...] = ({}, {"context": {}}, {"config": {"configurable": {}}})
            for nothing in empty:
                assert await logged(name, **nothing) == [unset, "None None"]
            given: Any = {"tone": "warm"}
            assert await logged(name, context=given) == [f"{kind} warm", "warm None"]
            assert await logged(name, config={"configurable": given}) == [f"{kind} warm", "warm None"]
            more = {"configurable": {"model": "big"}}
            assert await logged(name, context=given, config=more) == [f"{kind} warm", "warm big"]
            both = {"configurable": {"tone": "cold"}}
            assert await logged(name, context=given, config=both) == [f"{kind} warm", "cold None"]
            if name != "none":
                assert await logged(name, config=more) == [unset, "None big"]


async def test_context_cannot_set_keys_of_the_server(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": with_context(None)}, 1) as (a,):
        keys = {"checkpoint_id": "x", "thread_id": "other", "checkpoint_ns": "n", "__pregel_x": 1}
        await done(a, "g", input={}, context={**keys, "tone": "warm"})
        assert (await view(a)).values["log"] == ["dict warm", "warm None"]


async def test_missing_context_is_refused_before_admission(tmp_path: Path) -> None:
    async with workers(tmp_path, {"g": with_context(Needy)}, 1) as (a,):
        for request in ({}, {"context": {"tone": "warm"}}, {"config": {"configurable": {"tone": "warm"}}}):
            with pytest.raises(InvalidArgument, match=r"context: .*name"):
                await a.create_or_reject("t", "g", kwargs={"input": {}, **request})
        assert (await done(a, "g", input={}, config={"configurable": {"name": "x"}}))["log"][
            0
        ] == "Needy plain"


async def test_context_of_a_preset_is_merged(tmp_path: Path) -> None:
    states = sqlite_states(tmp_path / "checkpoints.db")
    preset = Preset(config={"configurable": {"model": "big"}}, context={"tone": "warm"})
    made = GraphAssistant(with_context(graphs.Style), states, name="g", preset=preset)
    async with open_coordinator(f"sqlite:///{tmp_path}/runs.db", assistants=[made], **QUICK) as manager:
        assert (await done(manager, "g", thread="1", input={}))["log"] == ["Style warm", "warm big"]
        cold = {"configurable": {"tone": "cold"}}
        assert (await done(manager, "g", thread="2", input={}, config=cold))["log"] == [
            "Style cold",
            "cold big",
        ]
