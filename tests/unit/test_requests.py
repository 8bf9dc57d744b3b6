"""Keys that only the server sets are removed from a request before it is stored; keys of the client stay."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator import CheckpointRef, RunRequest
from coordinator.assistants.requests import cleaned

SERVER_OWNED = [
    "thread_id",
    "run_id",
    "checkpoint_id",
    "checkpoint_ns",
    "checkpoint_map",
    "assistant_id",
    "graph_id",
    "user_id",
    "__pregel_checkpointer",
    "__interrupt__",
    "langgraph_auth_user",
    "langgraph_auth_user_id",
    "langgraph_auth_permissions",
    "langgraph_request_id",
    "coordinator_fence",
]


@pytest.mark.parametrize("key", SERVER_OWNED)
def test_server_owned_keys_are_taken_out(key: str) -> None:
    request = RunRequest(
        config={"configurable": {key: "of another user", "model": "m"}, "metadata": {key: 1, "kept": 2}}
    )
    assert cleaned(request).config == {"configurable": {"model": "m"}, "metadata": {"kept": 2}}


@pytest.mark.parametrize("key", ["callbacks", "run_id", "thread_id", "store", "checkpointer", "__x"])
def test_a_config_is_wired_by_the_server(key: str) -> None:
    assert cleaned(RunRequest(config={key: "x", "tags": ["a"]})).config == {"tags": ["a"]}


def test_a_run_is_stamped_by_the_server() -> None:
    assert cleaned(RunRequest(metadata={"run_id": "x", "__x": 1, "thread_id": "mine"})).metadata == {
        "thread_id": "mine"
    }


def test_a_client_cannot_name_its_user_in_a_context() -> None:
    context = {"langgraph_auth_user": {"identity": "root"}, "__x": 1, "coordinator_user": 1, "name": "ann"}
    assert cleaned(RunRequest(context=context)).context == {"name": "ann"}


@pytest.mark.parametrize("key", ["user_id", "thread_id", "User_Id", "THREAD_ID", "LangGraph_auth_user"])
def test_identity_in_a_context_is_taken_out(key: str) -> None:
    assert cleaned(RunRequest(context={key: "bob", "model": "m"})).context == {"model": "m"}


@pytest.mark.parametrize(
    "key", ["Thread_Id", "USER_ID", "Checkpoint_ID", "LANGGRAPH_auth_user", "Coordinator_fence"]
)
def test_server_owned_keys_are_taken_out_in_any_case(key: str) -> None:
    request = RunRequest(
        config={"configurable": {key: "x", "Model": "m"}, "metadata": {key: 1}, "Run_Id": "x"}
    )
    assert cleaned(request).config == {"configurable": {"Model": "m"}, "metadata": {}}


def test_what_is_the_clients_stays_and_what_is_given_is_not_changed() -> None:
    config = {
        "tags": ["a"],
        "recursion_limit": 5,
        "run_name": "n",
        "configurable": {"model": "m", "nested": {"thread_id": "its own"}},
    }
    request = RunRequest(
        input={"thread_id": "its own"},
        config=config,
        checkpoint=CheckpointRef("c"),
        stream_mode=("values",),
        feedback_keys=("k",),
        metadata={"a": 1},
    )
    assert cleaned(request) == request
    cleaned(RunRequest(config={"configurable": {"thread_id": 1}}))
    assert config["configurable"] == {"model": "m", "nested": {"thread_id": "its own"}}


@pytest.mark.parametrize("odd", [None, "text", 5, [], [{"thread_id": 1}]])
def test_what_has_no_keys_is_left_alone(odd: Any) -> None:
    assert cleaned(RunRequest(config=odd, context=odd, metadata=odd)) == RunRequest(
        config=odd, context=odd, metadata=odd
    )
    assert cleaned(RunRequest(config={"configurable": odd, "metadata": odd})).config == {
        "configurable": odd,
        "metadata": odd,
    }
