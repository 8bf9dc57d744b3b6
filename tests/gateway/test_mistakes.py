"""Bodies with many mistakes: the response lists the first ones, and validation stops."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from pydantic import BaseModel

from coordinator import RunManager
from coordinator.gateway.errors import LONGEST_DETAIL, MOST_MISTAKES, error_response
from coordinator.gateway.wire import bodies, runs, weight
from coordinator.gateway.wire import crons as cron_bodies
from coordinator.settings import Settings
from tests.support.asgi import serving
from tests.support.gateways import one_gateway

MANY = 20_000
LARGEST = 64 << 10
ONES = [1] * MANY
RUN = {"assistant_id": "agent"}
MISTAKES: dict[str, tuple[str, Any]] = {
    "goto": ("/runs", {**RUN, "command": {"goto": ONES}}),
    "goto, of sends": ("/runs", {**RUN, "command": {"goto": [{"node": 1}] * MANY}}),
    "tags": ("/runs", {**RUN, "config": {"tags": ONES}}),
    "modes": ("/runs", {**RUN, "stream_mode": ONES}),
    "interrupts": ("/runs", {**RUN, "interrupt_before": ONES}),
    "feedback keys": ("/runs", {**RUN, "feedback_keys": ONES}),
    "a batch": ("/runs/batch", [{"assistant_id": 1, "input": 0, "metadata": 1, "config": 2}] * 1000),
    "updates of a state": ("/threads/{thread}/state", {"values": ONES}),
    "supersteps": ("/threads", {"supersteps": [{"updates": [{}] * 1000}] * (MANY // 1000)}),
    "supersteps that are none": ("/threads", {"supersteps": ONES}),
    "ids": ("/threads/search", {"ids": ONES}),
    "fields": ("/threads/search", {"select": ONES}),
    "paths": ("/threads/search", {"extract": {f"k{at}": at for at in range(MANY)}}),
    "one path with a long name": ("/threads/search", {"extract": {"k" * MANY * 10: 1}}),
    "run ids": ("/runs/cancel", {"thread_id": "0" * 32, "run_ids": ONES}),
    "crons": ("/runs/crons/search", {"select": ONES}),
    "history": ("/threads/{thread}/history", {"select": ONES}),
    "keys": ("/threads", {f"k{at}": at for at in range(MANY)}),
}


@pytest.mark.parametrize("path_and_body", MISTAKES.values(), ids=MISTAKES)
async def test_response_to_a_body_of_mistakes_is_bounded(path_and_body: tuple[str, Any]) -> None:
    path, body = path_and_body
    async with serving() as (_, client):
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        answer = await client.post(path.format(thread=thread), json=body)
    assert answer.status_code == 422
    assert len(answer.content) <= LARGEST
    assert 1 <= len(answer.json()["mistakes"]) <= MOST_MISTAKES + 1


async def test_response_to_a_query_of_mistakes_is_bounded() -> None:
    async with serving() as (_, client):
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        answer = await client.get(f"/threads/{thread}/runs?" + "&".join(["select=x"] * 2000))
    assert answer.status_code == 422
    assert len(answer.content) <= LARGEST


async def test_few_mistakes_are_all_listed() -> None:
    async with serving() as (_, client):
        answer = await client.post("/runs", json={"assistant_id": 1, "stream_mode": ["none"], "webhook": ""})
    named = {tuple(one["loc"]) for one in answer.json()["mistakes"]}
    assert {("body", "assistant_id"), ("body", "webhook")} <= named


async def test_client_raises_a_readable_error() -> None:
    from langgraph_sdk.errors import UnprocessableEntityError

    async with one_gateway() as one:
        thread = (await one.sdk.threads.create())["thread_id"]
        for call, text in (
            (one.sdk.runs.create(thread, "agent", stream_mode="none"), r"stream_mode\.0: .*'values'"),
            (one.sdk.threads.search(limit="x", offset=-1), r"limit: .*integer; offset: .*greater"),
            (one.sdk.threads.update_state(thread, 5), r"^values: .*dictionary; values: .*list$"),
            (one.sdk.threads.get("abc"), r"thread_id: .*UUID"),
        ):
            with pytest.raises(UnprocessableEntityError, match=text):
                await call


HUGE = b'{"metadata":\n {"\\"9e999": "1e999", "b": [1.5e3, -2e999, 3e999]}}'


@pytest.mark.parametrize(
    ("body", "offset", "message"),
    [
        (b'{"metadata": {},}', 16, "trailing comma at line 1 column 17"),
        (b'{"metadata":\n\n {"a": NaN}}', 21, "NaN and Infinity are not valid in JSON at line 3 column 8"),
        (
            b'{"metadata": {"a": -Infinity}}',
            20,
            "NaN and Infinity are not valid in JSON at line 1 column 21",
        ),
        (b"[" * 10_000, 201, "recursion limit exceeded at line 1 column 202"),
        (HUGE, HUGE.index(b"-2e999"), "a number is too large at line 2 column 36"),
        (b'{"metadata": ' + b"7" * 5000 + b"}", 4314, "number out of range at line 1 column 4315"),
        (b"\xef\xbb\xbf{}", 0, "it begins with a byte order mark; JSON is UTF-8 without one"),
        (b'{"metadata": "secret', 19, "EOF while parsing a string at line 1 column 20"),
        (b'{"metadata": "secret\xff"}', 20, "invalid unicode code point at line 1 column 21"),
        (b"{'secret': 1}", 1, "key must be a string at line 1 column 2"),
    ],
    ids=["comma", "NaN", "-Infinity", "depth", "too large", "digits", "BOM", "end", "UTF-8", "quotes"],
)
async def test_invalid_json_is_refused_with_cause_and_position(
    body: bytes, offset: int, message: str
) -> None:
    async with serving() as (_, client):
        answer = await client.post("/threads", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    (mistake,) = answer.json()["mistakes"]
    assert mistake["type"] == "json_invalid"
    assert mistake["loc"] == ["body", offset]
    assert mistake["msg"] == f"JSON decode error: {message}"


async def test_response_to_invalid_input_is_bounded() -> None:
    class Numbers(BaseModel):
        numbers: list[int]

    from coordinator import assistant

    @assistant(name="typed", input=Numbers)
    async def typed(_: Any) -> None: ...

    manager = RunManager(settings=Settings(tick=0.05, grace=0))
    manager.assistants.register(typed, name="typed")
    async with serving(manager=manager) as (_, client):
        for count in (100, MANY):
            body = {"assistant_id": "typed", "input": {"numbers": ["x"] * count}}
            answer = await client.post("/runs", json=body)
            assert answer.status_code == 422
            assert len(answer.content) <= 8 << 10, count


def test_detail_is_shortened_only_beyond_its_bound() -> None:
    details = [
        json.loads(bytes(error_response(404, "x" * size).body))["detail"]
        for size in (LONGEST_DETAIL, LONGEST_DETAIL + 1)
    ]
    longest = "x" * LONGEST_DETAIL
    assert details == [longest, f"{longest}…"]


async def test_supersteps_are_bounded_all_together() -> None:
    step = {"updates": [{"as_node": "__start__", "values": {"a": 1}}] * 6}
    async with serving() as (_, client):
        fits = await client.post("/threads", json={"supersteps": [step] * 2})
        assert fits.status_code == 200, fits.text
        too_many = await client.post("/threads", json={"supersteps": [step] * 167})
    assert too_many.status_code == 422
    assert "1000" in too_many.text


async def test_number_of_values_of_a_body_is_bounded() -> None:
    async with serving(max_body_bytes=8 << 20) as (_, client):
        for count, status in ((weight.MAX_VALUES - 100, 200), (weight.MAX_VALUES + 1, 413)):
            run = {"assistant_id": "agent", "context": {"numbers": [1] * count}}
            assert (await client.post("/runs", json=run)).status_code == status, count
        prose = {"assistant_id": "agent", "context": {"text": ', "[{' * weight.MAX_VALUES}}
        answer = await client.post("/runs", json=prose)
        assert answer.status_code == 200, "commas and brackets in a string are not counted as values"


def lists_of(schema: Any) -> Iterator[dict[str, Any]]:
    """Yields every list schema in a core schema."""
    if isinstance(schema, dict):
        parts = cast("dict[str, Any]", schema)
        if parts.get("type") == "list":
            yield parts
        for value in parts.values():
            yield from lists_of(value)
    elif isinstance(schema, (list, tuple)):
        for value in cast("list[Any]", schema):
            yield from lists_of(value)


def request_models() -> Iterator[type[bodies.Body]]:
    todo = [bodies.Body]
    for model in todo:  # the list grows during the loop
        todo += model.__subclasses__()
    yield from todo[1:]


def test_every_list_in_a_body_is_bounded_and_stops_at_the_first_mistake() -> None:
    models = list(request_models())
    assert runs.RunCreate in models
    assert cron_bodies.CronPatch in models
    for model in models:
        model.build()
        for schema in lists_of(model.__pydantic_core_schema__):
            assert "max_length" in schema, (model.__name__, schema)
            assert schema.get("fail_fast"), (model.__name__, schema)


@pytest.mark.parametrize(
    ("path", "item"),
    [
        ("/threads/{thread}/runs", "select=run_id"),
        ("/threads/{thread}/state", "select=values"),
        ("/threads/{thread}", "include=ttl"),
        ("/threads/{thread}/runs/{run}/stream", "stream_mode=values"),
    ],
)
async def test_every_list_in_a_query_is_bounded(path: str, item: str) -> None:
    async with serving() as (_, client):
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        run = (await client.post(f"/threads/{thread}/runs", json=RUN)).json()["run_id"]
        for count, status in ((64, 200), (65, 422)):
            query = "&".join([item] * count)
            answer = await client.get(f"{path.format(thread=thread, run=run)}?{query}")
            assert answer.status_code == status
