"""Errors carry data, and a bad argument is refused before the first write."""

from __future__ import annotations

import inspect
from operator import attrgetter
from typing import Any

import pytest

from coordinator import (
    CheckpointRef,
    ConflictError,
    CoordinatorError,
    InvalidArgument,
    RunManager,
    UnsupportedStrategyError,
)
from stores.rows import COUNTERS, MESSAGES
from tests.support.inside import records_of
from tests.support.public import public_methods
from tests.support.runs import row

BAD_IDS: dict[str, Any] = {
    "a number": 7,
    "bytes": b"t",
    "a list": ["t"],
    "empty": "",
    "too long": "x" * 256,
    "NUL": "a\0b",
    "newline": "a\nb",
    "escape": "\x1b[2J",
    "DEL": "a\x7f",
    "C1": "a\x85",
    "line separator": "a\u2028b",
    "lone surrogate": "a\ud800",
}
_DEEP: dict[str, Any] = {}
_inner = _DEEP
for _ in range(500):
    _inner["k"] = {}
    _inner = _inner["k"]
_CIRCLE: dict[str, Any] = {}
_CIRCLE["k"] = _CIRCLE
BAD_METADATA: dict[str, Any] = {
    "a list": [],
    "text": "{}",
    "an object inside": {"k": object()},
    "a set inside": {"k": {1}},
    "NaN": {"k": float("nan")},
    "infinity": {"k": [float("inf")]},
    "a number as key": {1: "v"},
    "None as key, deep": {"k": [{None: 1}]},
    "deep": _DEEP,
    "a circle": _CIRCLE,
}
BAD_TEXTS: dict[str, Any] = {"a number": 7, "bytes": b"x"}
BAD_SECONDS: dict[str, Any] = {"text": "1", "negative": -1, "NaN": float("nan"), "a bool": True}
BAD_NAMES: dict[str, Any] = {"unknown": "nonsense", "a number": 7, "a list": ["interrupt"], "empty": ""}
BAD_LIMITS: dict[str, Any] = {"negative": -1, "text": "1", "a bool": True, "a fraction": 1.5, "None": None}
NONE: dict[str, Any] = {"None": None}

KINDS: dict[str, dict[str, Any]] = {
    "id": BAD_IDS | NONE,
    "optional id": BAD_IDS,
    "metadata": BAD_METADATA,
    "kwargs": {"a list": [], "a number as key": {1: 2}},
    "text": BAD_TEXTS,
    "needed text": BAD_TEXTS | NONE,
    "seconds": BAD_SECONDS,
    "needed seconds": BAD_SECONDS | NONE,
    "time limit": BAD_SECONDS | {"zero": 0, "for ever": float("inf")},
    "delay": BAD_SECONDS | {"for ever": float("inf")},
    "name": BAD_NAMES | NONE,
    "limit": BAD_LIMITS,
    "flag": {"a number": 1, "text": "yes"},
    "counter": {"text": "1", "a fraction": 1.5, "a bool": True, "beyond 64 bits": 10**20},
    "statuses": {"a status": "running", "a number": 7, "unknown": ["nonsense"], "None": None},
    "json": {"an object": object(), "NaN": float("nan"), "deep": _DEEP, "a number as key": {1: 2}},
    "event id": {"a number": 7, "no id": "5", "a line end": "1-1\n", "beyond 63 bits": f"{2**63}-1"},
    "modes": {"a number": 7, "an empty one": [""], "a line end": "a\nb", "numbers": [1]},
    "checkpoint": {"text": "c", "a dict": {}, "an empty id": CheckpointRef("")},
    "ids": {"a number inside": [7], "an empty one": ["r", ""], "a line end": ["a\nb"]},
    "instant": {"a number": 7, "nonsense": "yesterday"},
    "epoch": {"text": "1", "a bool": True, "negative": -1, "beyond 63 bits": 2**63},
}

COUNTED = {
    **dict.fromkeys(COUNTERS, "counter"),
    **dict.fromkeys(MESSAGES, "text"),
    "model_name": "text",
}
ADMISSION = {
    "thread_id": "id",
    "assistant_id": "optional id",
    "user_id": "optional id",
    "on_disconnect": "name",
    "metadata": "metadata",
    "kwargs": "kwargs",
    "multitask_strategy": "name",
    "model_name": "text",
    "timeout": "time limit",
    "idle_timeout": "time limit",
}
METHODS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    # method: (a good call, the kind of each argument)
    "create": ({"thread_id": "t"}, ADMISSION),
    "create_or_reject": (
        {"thread_id": "t"},
        {
            **ADMISSION,
            "idempotency_key": "optional id",
            "parent_run_id": "optional id",
            "queue_timeout": "time limit",
            "after_seconds": "delay",
            "extra": "metadata",
        },
    ),
    "get": ({"run_id": "r"}, {"run_id": "id", "user_id": "optional id", "raise_on_store_error": "flag"}),
    "aget": ({"run_id": "r"}, {"run_id": "id", "user_id": "optional id"}),
    "list_by_thread": ({"thread_id": "t"}, {"thread_id": "id", "user_id": "optional id", "limit": "limit"}),
    "events": (
        {"run_id": "r"},
        {"run_id": "id", "after": "event id", "limit": "limit", "user_id": "optional id"},
    ),
    "follow": (
        {"run_id": "r"},
        {"run_id": "id", "after": "event id", "modes": "modes", "user_id": "optional id"},
    ),
    "has_inflight": ({"thread_id": "t"}, {"thread_id": "id", "operations": "flag"}),
    "runs.thread_of_key": ({"idempotency_key": "k"}, {"idempotency_key": "id", "user_id": "optional id"}),
    "start": ({"run_id": "r"}, {"run_id": "id"}),
    "set_status": ({"run_id": "r", "status": "running"}, {"run_id": "id", "status": "name", "error": "text"}),
    "update_model_name": ({"run_id": "r", "name": "m"}, {"run_id": "id", "name": "text"}),
    "update_run_completion": (
        {"run_id": "r"},
        {"run_id": "id", "status": "name", **COUNTED, "error": "text", "extra": "metadata"},
    ),
    "update_run_progress": ({"run_id": "r"}, {"run_id": "id", **COUNTED}),
    "cancel": (
        {"run_id": "r"},
        {
            "run_id": "id",
            "action": "name",
            "cause": "name",
            "reason": "text",
            "actor": "text",
            "user_id": "optional id",
            "wait": "seconds",
        },
    ),
    "runs.cancel_one": (
        {"run_id": "r"},
        {
            "run_id": "id",
            "action": "name",
            "cause": "name",
            "reason": "text",
            "actor": "text",
            "user_id": "optional id",
            "wait": "seconds",
        },
    ),
    "wait": ({"run_id": "r"}, {"run_id": "id", "timeout": "seconds", "user_id": "optional id"}),
    "ended": ({"run_id": "r"}, {"run_id": "id", "timeout": "seconds", "user_id": "optional id"}),
    "runs.position": ({"run": None}, {}),
    "runs.explain": ({"run_id": "r"}, {"run_id": "id", "user_id": "optional id"}),
    "runs.receipt": ({"run_id": "r"}, {"run_id": "id", "user_id": "optional id"}),
    "runs.recent": (
        {},
        {"thread_id": "optional id", "limit": "limit", "statuses": "statuses", "in_flight": "flag"},
    ),
    "worker.fleet": ({}, {"alive_only": "flag"}),
    "threads.get": ({"thread_id": "t"}, {"thread_id": "id", "user_id": "optional id"}),
    "threads.replace_values": (
        {"thread_id": "t", "values": {}},
        {"thread_id": "id", "user_id": "optional id", "values": "json"},
    ),
    "threads.copy": (
        {"source": "t", "target": "u"},
        {"source": "id", "target": "id", "user_id": "optional id"},
    ),
    "threads.create": (
        {},
        {"thread_id": "optional id", "metadata": "metadata", "temporary": "flag", "user_id": "optional id"},
    ),
    "threads.update": (
        {"thread_id": "t"},
        {"thread_id": "id", "metadata": "metadata", "user_id": "optional id"},
    ),
    "runs.get": ({"run_id": "r"}, {"run_id": "id", "thread_id": "optional id", "user_id": "optional id"}),
    "runs.of_thread": (
        {"thread_id": "t"},
        {
            "thread_id": "id",
            "statuses": "statuses",
            "limit": "limit",
            "offset": "limit",
            "user_id": "optional id",
        },
    ),
    "runs.started": (
        {"thread_id": "t"},
        {"thread_id": "id", "after": "limit", "limit": "limit", "user_id": "optional id"},
    ),
    "threads.changes": ({"thread_id": "t"}, {"thread_id": "id"}),
    "threads.notify": ({"thread_id": "t"}, {"thread_id": "id"}),
    "runs.in_flight": (
        {},
        {
            "status": "name",
            "after": "optional id",
            "thread_id": "optional id",
            "limit": "limit",
            "user_id": "optional id",
        },
    ),
    "runs.delete": ({"run_id": "r"}, {"run_id": "id", "thread_id": "optional id", "user_id": "optional id"}),
    "runs.update_extra": (
        {"run_id": "r", "extra": {}},
        {"run_id": "id", "extra": "metadata", "user_id": "optional id"},
    ),
    "webhooks.search": ({}, {"run_id": "optional id", "limit": "limit", "user_id": "optional id"}),
    "webhooks.revive": ({}, {"run_ids": "ids", "user_id": "optional id"}),
    "webhooks.stop": ({}, {"run_ids": "ids", "user_id": "optional id"}),
    "webhooks.count": ({}, {"user_id": "optional id"}),
    "streams.publish": (
        {"run_id": "r", "event": "custom", "data": 1},
        {"run_id": "id"},
    ),
    "streams.end": ({"run_id": "r"}, {"run_id": "id"}),
    "streams.subscribe": (
        {"run_id": "r"},
        {"run_id": "id", "last_event_id": "event id", "heartbeat": "seconds", "user_id": "optional id"},
    ),
    "projections.remove": ({"name": "p"}, {"name": "id"}),
    "crons.disable_all": ({"user_id": "u"}, {"user_id": "id"}),
    "crons.delete_all": ({"user_id": "u"}, {"user_id": "id"}),
    "crons.get": ({"cron_id": "c"}, {"cron_id": "id", "user_id": "optional id"}),
    "crons.delete": ({"cron_id": "c"}, {"cron_id": "id", "user_id": "optional id"}),
    "client_assistants.get": ({"assistant_id": "a"}, {"assistant_id": "id", "user_id": "optional id"}),
    "client_assistants.delete": ({"assistant_id": "a"}, {"assistant_id": "id", "user_id": "optional id"}),
    "client_assistants.set_version": (
        {"assistant_id": "a", "version": 1},
        {"assistant_id": "id", "version": "limit", "user_id": "optional id"},
    ),
    "client_assistants.versions": ({"assistant_id": "a"}, {"assistant_id": "id", "user_id": "optional id"}),
    "threads.delete": ({"thread_id": "t"}, {"thread_id": "id", "user_id": "optional id"}),
    "threads.keep_latest": ({"thread_id": "t"}, {"thread_id": "id", "user_id": "optional id"}),
    "threads.state": (
        {"thread_id": "t"},
        {"thread_id": "id", "at": "checkpoint", "subgraphs": "flag", "user_id": "optional id"},
    ),
    "threads.history": (
        {"thread_id": "t"},
        {
            "thread_id": "id",
            "limit": "limit",
            "before": "checkpoint",
            "metadata": "metadata",
            "user_id": "optional id",
        },
    ),
    "threads.update_state": (
        {"thread_id": "t", "values": {}},
        {
            "thread_id": "id",
            "values": "json",
            "as_node": "optional id",
            "at": "checkpoint",
            "user_id": "optional id",
        },
    ),
    "threads.hold": (
        {"thread_id": "t", "name": "n"},
        {"thread_id": "id", "name": "id", "user_id": "optional id"},
    ),
    "reconcile_orphaned_inflight_runs": ({"error": "e"}, {"error": "needed text", "before": "instant"}),
    "cleanup": ({"run_id": "r", "delay": 0}, {"run_id": "id", "delay": "needed seconds"}),
    "shutdown": ({}, {"timeout": "seconds"}),
    "worker.drain": ({}, {"grace": "seconds"}),
    "worker.request_drain": ({}, {"epoch": "epoch", "grace": "seconds"}),
    "runs.search": ({}, {"limit": "limit", "user_id": "optional id"}),
    "runs.cancellable_ids": ({}, {"limit": "limit", "user_id": "optional id"}),
    "runs.cancel": (
        {"run_ids": ["r"]},
        {
            "run_ids": "ids",
            "action": "name",
            "reason": "text",
            "actor": "text",
            "cause": "name",
            "user_id": "optional id",
        },
    ),
    "disconnected": ({"run_id": "r"}, {"run_id": "id", "user_id": "optional id"}),
}
RENAMED = {("update_model_name", "name"): "model_name"}

MATRIX = [
    pytest.param(method, argument, bad, id=f"{method}-{argument}-{how}")
    for method, (_, kinds) in METHODS.items()
    for argument, kind in kinds.items()
    for how, bad in KINDS[kind].items()
]


async def _called(method: Any, arguments: dict[str, Any]) -> None:
    answer = method(**arguments)
    if inspect.isawaitable(answer):
        await answer


@pytest.mark.parametrize(("method", "argument", "bad"), MATRIX)
async def test_bad_argument_is_refused_before_the_first_write(method: str, argument: str, bad: Any) -> None:
    manager = RunManager()
    good, _ = METHODS[method]
    with pytest.raises(CoordinatorError) as refused:
        await _called(attrgetter(method)(manager), {**good, argument: bad})
    assert isinstance(refused.value, InvalidArgument)
    assert isinstance(refused.value, ValueError)
    named = {argument, RENAMED.get((method, argument), argument)}
    assert refused.value.argument in named
    assert str(refused.value).isprintable()
    assert manager.worker.epoch == 0, "the call has reached the store"
    assert records_of(manager) == {}


OF_THE_WORKER = {
    "worker.install_executor",
    "worker.observe",
    "worker.observe_stalls",
    "worker.add_health_check",
    "worker.before_requested_drain",
    "projections.add",
    "webhooks.claim",
    "webhooks.report",
    "webhooks.restrict",
    "crons.due",
    "crons.skip",
}
"""Called by programs that run a worker, with arguments from their own code or from the store."""
OF_ROWS = {
    "threads.search",
    "threads.count",
    "threads.initialise",
    "crons.search",
    "crons.count",
    "crons.create",
    "crons.replace",
    "client_assistants.create",
    "client_assistants.change",
    "client_assistants.search",
    "client_assistants.count",
    "webhooks.checked",
}
"""These take a query, a row or a URL, which the gateway checks when a client sends them."""


def test_matrix_has_every_public_method() -> None:
    public = {
        name for name, method in public_methods().items() if len(inspect.signature(method).parameters) > 1
    }
    assert public - set(METHODS) == {
        "launch",  # takes a record: tested below
        "running",  # takes a record: tested below
        "admit",  # takes a spec: tested below
        "spec",  # the first half of create_or_reject
        *OF_THE_WORKER,
        *OF_ROWS,
    }


def test_manager_has_at_most_26_methods_of_its_own() -> None:
    assert len([name for name in public_methods() if "." not in name]) <= 26


@pytest.mark.parametrize("record", [None, "run-1", {"run_id": "r"}])
async def test_launch_takes_records_only(record: Any) -> None:
    async def agent(ctx: Any) -> None: ...

    with pytest.raises(InvalidArgument) as refused:
        RunManager().launch(record, agent)
    assert refused.value.argument == "record"


@pytest.mark.parametrize("record", [None, "run-1", {"run_id": "r"}])
async def test_running_takes_records_only(record: Any) -> None:
    with pytest.raises(InvalidArgument) as refused:
        RunManager().running(record)
    assert refused.value.argument == "record"


@pytest.mark.parametrize("bad", [None, "notify", 1])
async def test_running_takes_known_ways_to_cancel_a_pending_run(manager: RunManager, bad: Any) -> None:
    record = await manager.create_or_reject("t")
    with pytest.raises(InvalidArgument) as refused:
        manager.running(record, on_pending_cancel=bad)
    assert refused.value.argument == "on_pending_cancel"


@pytest.mark.parametrize("spec", [None, "t", {"thread_id": "t"}])
async def test_admit_takes_specs_only(spec: Any) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await RunManager().admit(spec)
    assert refused.value.argument == "spec"


GOOD_IDS = ["x" * 255, "../x", "a b", "%2f?#", "日本語", "🙂", "'; DROP TABLE runs; --"]


@pytest.mark.parametrize("good", GOOD_IDS)
async def test_valid_id_is_stored_unchanged(manager: RunManager, good: str) -> None:
    record = await manager.create_or_reject(good, good, user_id=good, idempotency_key=good)
    assert (record.thread_id, record.assistant_id, record.user_id) == (good, good, good)
    assert await manager.list_by_thread(good, user_id=good) == [record]


async def test_texts_that_no_database_can_hold_are_escaped(recorded: RunManager) -> None:
    record = await recorded.create("t", kwargs={"q": "a\ud800"}, metadata={"k": "a\ud800"})
    await recorded.set_status(record.run_id, "error", error="bad \ud800 text")
    assert (await row(recorded, record.run_id))["error"] == "bad \\ud800 text"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConflictError("t"), "Thread 't' already has an active run"),
        (ConflictError("t", "r"), "Thread 't' already has an active run (run 'r')"),
        (
            UnsupportedStrategyError("x", ("reject", "enqueue")),
            "multitask_strategy: 'x' is not yet supported; supported strategies: reject, enqueue",
        ),
    ],
)
def test_message_names_the_thread_or_the_argument(error: Exception, message: str) -> None:
    assert str(error) == message


def test_errors_carry_data() -> None:
    conflict = ConflictError("t", "r")
    assert (conflict.thread_id, conflict.active_run_id) == ("t", "r")
    strategy = UnsupportedStrategyError("x", ("reject",))
    assert (strategy.strategy, strategy.supported, strategy.argument) == (
        "x",
        ("reject",),
        "multitask_strategy",
    )


async def test_single_id_is_refused_as_a_list_of_ids(manager: RunManager) -> None:
    """A str is a sequence of strs: each character would be taken for an unknown run."""
    with pytest.raises(InvalidArgument, match="list of run ids"):
        await manager.runs.cancel("run-1")
