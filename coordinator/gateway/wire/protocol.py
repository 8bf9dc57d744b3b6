"""Bodies of the Agent Streaming Protocol. Where clients and the protocol spell a key differently, both are
accepted."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from coordinator.gateway.protocol.channels import Subscription, is_channel, subscription
from coordinator.gateway.wire.bodies import Body, Long, Name, Send, Short, Strategy
from coordinator.gateway.wire.json import Json
from stores.json_values import JsonObject

MAX_SEQ = 2**63 - 1

OPTIONS = frozenset(
    {
        "checkpoint",
        "checkpoint_id",
        "config",
        "context",
        "durability",
        "feedback_keys",
        "interrupt_after",
        "interrupt_before",
        "metadata",
        "webhook",
    }
)
"""Parameters of commands that start a run, with the meaning that they have in the body of a run. The protocol
has `config` and `metadata`."""


def _check_channel(name: str) -> str:
    if not is_channel(name):
        raise ValueError("is no channel")
    return name


Channel = Annotated[str, Field(max_length=255), AfterValidator(_check_channel)]
Namespace = Annotated[list[Annotated[str, Field(max_length=1024)]], Short]


class EventStreamRequest(Body):
    """Which events of the thread: all of the channels, in these namespaces, behind the place `since`."""

    channels: Annotated[list[Channel], Field(min_length=1), Long]
    namespaces: Annotated[list[Namespace], Long] | None = None
    depth: int | None = Field(default=None, ge=0)
    since: int | None = Field(default=None, ge=0, le=MAX_SEQ)

    @property
    def subscription(self) -> Subscription:
        return subscription(self.channels, self.namespaces, self.depth)


class Reconnect(EventStreamRequest):
    subscription_id: Name | None = None


class Unsubscribe(Body):
    subscription_id: Name


class Command(Body):
    """One command. What `params` has depends on the method."""

    id: int = Field(ge=0, le=MAX_SEQ)
    method: str = Field(max_length=255)
    params: JsonObject = Field(default_factory=dict)


class RunStart(Body):
    IGNORED_KEYS: ClassVar[frozenset[str]] = OPTIONS | {"multitaskStrategy"}

    assistant_id: Name
    input: Json = None
    langsmith_tracer: JsonObject | None = None
    multitask_strategy: Strategy = "enqueue"


class Response(Body):
    interrupt_id: Name
    namespace: Namespace = Field(default_factory=list)
    response: Json = None


class InputRespond(Body):
    """One answer, or several of one pause."""

    IGNORED_KEYS: ClassVar[frozenset[str]] = OPTIONS

    interrupt_id: Name | None = None
    namespace: Namespace = Field(default_factory=list)
    response: Json = None
    responses: Annotated[list[Response], Field(min_length=1), Long] | None = None
    update: JsonObject | None = None
    goto: Send | Name | Annotated[list[Send | Name], Long] | None = None
    strict_resume: bool | None = None


class GetTree(Body):
    run_id: Name | None = None


class CommandResult(Body):
    """`type`: success with `result`, or error with `error` (its code) and `message`."""

    type: str
    id: int | None
    result: JsonObject | None = None
    error: str | None = None
    message: str | None = None
    meta: JsonObject | None = None
