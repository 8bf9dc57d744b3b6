"""The desk of a shop: a model with three tools, a question to a person before large refunds, and a subgraph.

coordinator dev examples/langgraph
"""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, Literal, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt
from rules import RuleModel

LIMIT = 100
"""Larger refunds need the approval of a person."""

model = RuleModel()


class Desk(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


# -- tools


@tool
def refund(order: int, amount: int) -> str:
    """Pay the amount back."""
    return f"{amount} € are on their way back for order {order}."


@tool
def order_status(order: int) -> str:
    """Return where an order is."""
    return f"Order {order} left the warehouse and arrives {'tomorrow' if order % 2 else 'on Friday'}."


TOOLS = {one.name: one for one in (refund, order_status)}


async def answer(state: Desk) -> dict[str, Any]:
    return {"messages": [await model.ainvoke(state["messages"])]}


def next_node(state: Desk) -> str:
    calls = _calls(state)
    if not calls:
        return END
    if calls[0]["name"] == "research":
        return "research"
    return "approve" if calls[0]["args"].get("amount", 0) > LIMIT else "tools"


async def tools(state: Desk) -> dict[str, Any]:
    results = [
        ToolMessage(str(await TOOLS[call["name"]].ainvoke(call["args"])), tool_call_id=call["id"])
        for call in _calls(state)
    ]
    return {"messages": results}


async def approve(state: Desk) -> Command[Literal["tools", "answer"]]:
    """Pause for a person. Question and answer have the form of LangChain's HumanInTheLoopMiddleware."""
    call = _calls(state)[0]
    decisions = interrupt(
        {
            "action_requests": [
                {
                    "name": call["name"],
                    "args": call["args"],
                    "description": f"Refunds above {LIMIT} € need your approval.",
                }
            ],
            "review_configs": [
                {"action_name": call["name"], "allowed_decisions": ["approve", "edit", "reject"]}
            ],
        }
    )
    decision = decisions["decisions"][0]
    if decision["type"] == "reject":
        reason = decision.get("message") or "no reason was given"
        rejected = ToolMessage(
            f"The refund was not approved: {reason}.", tool_call_id=call["id"], status="error"
        )
        return Command(goto="answer", update={"messages": [rejected]})
    if decision["type"] == "edit":
        edited = {**call, "args": decision["edited_action"]["args"]}
        proposal = state["messages"][-1]
        return Command(
            goto="tools", update={"messages": [AIMessage("", id=proposal.id, tool_calls=[edited])]}
        )
    return Command(goto="tools")


def _calls(state: Desk) -> list[Any]:
    last = state["messages"][-1]
    return last.tool_calls if isinstance(last, AIMessage) else []


# -- the subgraph


class Research(TypedDict, total=False):
    topic: str
    sources: list[str]
    notes: Annotated[list[str], operator.add]
    summary: str


class Source(TypedDict):
    topic: str
    source: str


async def plan(state: Research) -> Research:
    """A topic of two letters is in the handbook, if anywhere."""
    sources = ["handbook", "tickets", "archive"]
    return {"sources": sources if len(state.get("topic", "")) > 2 else sources[:1]}


def read_each(state: Research) -> list[Send]:
    return [
        Send("read", {"topic": state.get("topic"), "source": source}) for source in state.get("sources", ())
    ]


async def read(state: Source) -> Research:
    await asyncio.sleep(model.pause * len(state["source"]))
    return {"notes": [f"{len(state['source'])} pages about {state['topic']} in the {state['source']}"]}


async def write(state: Research) -> Research:
    reply = await model.ainvoke([HumanMessage(f"summarise: {'; '.join(state.get('notes', ()))}.")])
    return {"summary": str(reply.content)}


async def research(state: Desk) -> dict[str, Any]:
    call = _calls(state)[0]
    result = await researcher.ainvoke({"topic": call["args"]["topic"]})
    return {"messages": [ToolMessage(result["summary"], tool_call_id=call["id"])]}


# pyright: reportUnknownMemberType=false
# The types of langgraph's builders are partially unknown.
studies = StateGraph(Research)
studies.add_node("plan", plan)
studies.add_node("read", read)
studies.add_node("write", write)
studies.add_edge(START, "plan")
studies.add_conditional_edges("plan", read_each, ["read"])
studies.add_edge("read", "write")
researcher = studies.compile()

builder = StateGraph(Desk)
builder.add_node("answer", answer)
builder.add_node("approve", approve)
builder.add_node("tools", tools)
builder.add_node("research", research)
builder.add_edge(START, "answer")
builder.add_conditional_edges("answer", next_node, ["approve", "tools", "research", END])
builder.add_edge("tools", "answer")
builder.add_edge("research", "answer")
graph = builder.compile()
