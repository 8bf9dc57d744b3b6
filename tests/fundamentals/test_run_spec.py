"""Each field of RunSpec, from the arguments of a caller to the row, and on to another worker and to clients.
A new field gets a line in VALUES. The tests fail for each step that does not carry it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from coordinator import RunContext, RunManager, RunRecord, Settings, assistant, open_coordinator
from coordinator.cli.documents import run_in_full
from coordinator.gateway.wire.documents import Run, RunField, run_created, run_document
from coordinator.gateway.wire.runs import RunOptions
from coordinator.runs.idempotency import body_hash
from coordinator.runs.specs import spec_of
from coordinator.schemas import RunStatus, User
from coordinator.testing.conformance.stores.fields import EFFECTS, PARENT, column_is_kept
from coordinator.webhooks.document import FIELDS
from stores.base import RunStore
from stores.crons import Firing
from stores.memory import MemoryStore
from stores.plain import PlainStore
from stores.retry import PersistenceRetryPolicy
from stores.rows import Limits, RunRow
from stores.spec import COLUMN_NAMES, RECORDED, ROLES, RunSpec, default_of
from stores.sqlite import SQLiteStore
from stores.webhooks import WebhookStore
from tests.support.asgi import serving
from tests.support.builders import (
    StoreClock,
    admitted,
    holding,
    new_run,
    new_worker,
    row_of,
    running,
)
from tests.support.postgres import Database
from tests.support.teams import QUICK

FIRING = Firing("cron", 1_000_000, None)
VALUES: dict[str, Any] = {
    "thread_id": "another thread",
    "kind": "op",
    "user_id": "user",
    "assistant_id": "agent",
    "multitask_strategy": "enqueue",
    "on_disconnect": "continue",
    "metadata": {"m": [1, "ü", None]},
    "kwargs": {"input": {"k": "\ud83d"}},
    "model_name": "model",
    "idempotency_key": "key",
    "parent_run_id": "parent",
    "timeout_ms": 70_000,
    "idle_timeout_ms": 80_000,
    "retries": 3,
    "user_document": {"permissions": ["a"], "attributes": {"team": "ü"}},
    "extra": {"stop_reason": "é", "n": [1, None]},
    "queue_timeout_ms": 90_000,
    "delay_ms": 60_000,
    "webhook": "https://example.org/hook",
    "firing": FIRING,
    "thread_must_exist": True,
    "adopt_thread": False,
    "temporary_ms": 50_000,
}
"""For each field a value that is not its default."""

ARGUMENTS: dict[str, tuple[str, Any]] = {
    "timeout_ms": ("timeout", 70),
    "idle_timeout_ms": ("idle_timeout", 80),
    "queue_timeout_ms": ("queue_timeout", 90),
    "delay_ms": ("after_seconds", 60),
    "temporary_ms": ("temporary_thread", True),
    "user_document": ("user", User("ada", ("a",), {"team": "ü"})),
}
"""Arguments of `create_or_reject` that are not called as their field."""
NO_ARGUMENT = {"kind", "retries"}  # retries: admission takes it from the assistant
NOT_IN_BODIES = {
    "thread_id",  # the path
    "assistant_id",  # RunCreate
    "idempotency_key",  # a header
    "user_id",  # the key of the caller
    "delay_ms",  # after_seconds
    "temporary_ms",  # on_completion
    "thread_must_exist",  # if_not_exists
    "adopt_thread",
    "kwargs",  # input, config, context, …
    "kind",
    "model_name",
    "parent_run_id",
    "timeout_ms",
    "idle_timeout_ms",
    "retries",
    "user_document",  # the authentication
    "extra",  # of the gateway: its clients have metadata
    "queue_timeout_ms",
    "firing",
}
NOT_SHOWN = {
    "kind",
    "user_id",
    "on_disconnect",
    "model_name",
    "idempotency_key",
    "parent_run_id",
    "timeout_ms",
    "idle_timeout_ms",
    "retries",
    "user_document",
    "extra",
    "queue_timeout_ms",
    "delay_ms",
    "webhook",
    "firing",
    "thread_must_exist",
    "adopt_thread",
    "temporary_ms",
}
NOT_IN_CLI = {"kind", "parent_run_id", "timeout_ms", "idle_timeout_ms", "user_document"}
"""Columns that `runs show --json` leaves out."""
NOT_IN_WEBHOOKS = {
    "kind",
    "user_id",
    "on_disconnect",
    "model_name",
    "idempotency_key",
    "parent_run_id",
    "timeout_ms",
    "idle_timeout_ms",
    "retries",
    "user_document",
    "extra",
}
"""Columns that the body of a webhook leaves out."""
SHOWN_OF_ROWS = ("run_id", "created_at", "error")
"""Columns that are not requested with a run, and that clients see as they are stored."""

each_field = pytest.mark.parametrize("name", [each.name for each in fields(RunSpec)])
each_column = pytest.mark.parametrize("name", COLUMN_NAMES)


@pytest.fixture
def clock() -> StoreClock:
    return StoreClock()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: StoreClock, shared_postgres: Database
) -> AsyncGenerator[Any]:
    if request.param == "memory":
        yield MemoryStore(clock=clock)
    elif request.param == "sqlite":
        file = SQLiteStore(tmp_path / "runs.db", clock=clock, synchronous="NORMAL")
        await file.open()
        yield file
        await file.aclose()
    else:
        async with shared_postgres.store(clock=clock) as server:
            yield server


@pytest.fixture
async def epoch(store: Any) -> int:
    return await store.register(new_worker(assistants=("agent",)))


def admission(name: str, **others: Any) -> dict[str, Any]:
    return {"thread_id": "t", **others, name: VALUES[name]}


def test_every_field_has_a_value_to_walk_with() -> None:
    names = {each.name for each in fields(RunSpec)}
    assert VALUES.keys() == names == ROLES.keys()
    assert [name for name in names if VALUES[name] == default_of(name)] == []
    assert NOT_SHOWN | NOT_IN_BODIES | NO_ARGUMENT | ARGUMENTS.keys() <= names
    assert EFFECTS.keys() == names - {*COLUMN_NAMES}


def test_spec_is_immutable() -> None:
    with pytest.raises(AttributeError):
        RunSpec(thread_id="t").thread_id = "other"  # pyright: ignore[reportAttributeAccessIssue] - frozen, which is tested


def test_columns_of_a_spec_are_columns_of_its_row() -> None:
    assert {*COLUMN_NAMES} <= {each.name for each in fields(RunRow)}
    assert set(SHOWN_OF_ROWS) <= {each.name for each in fields(RunRow)} - {*COLUMN_NAMES}


@each_column
async def test_column_is_in_each_list_that_is_written_by_hand(name: str) -> None:
    """Or is named as one that it leaves out."""
    store = MemoryStore()
    made = await admitted(store, await store.register(new_worker()))
    assert (name in run_in_full(await row_of(store, made.run_id), None)) != (name in NOT_IN_CLI)
    assert (name in FIELDS) != (name in NOT_IN_WEBHOOKS)


# -- from the caller to the row


@each_field
async def test_argument_of_create_or_reject_reaches_the_spec(name: str) -> None:
    if name in NO_ARGUMENT:
        return
    argument, value = ARGUMENTS.get(name, (name, VALUES[name]))
    assert argument in inspect.signature(RunManager.create_or_reject).parameters
    settings = Settings(store="memory://", keep_temporary=50)
    async with open_coordinator(settings=settings) as manager:
        seen: list[RunSpec] = []

        async def admit(spec: RunSpec, *, start: bool = False, validated: bool = False) -> Any:
            del start, validated
            seen.append(spec)

        manager.admit = admit
        arguments: dict[str, Any] = {"thread_id": "t", argument: value}
        await manager.create_or_reject(**arguments)
    assert getattr(seen[0], name) == VALUES[name]


@each_column
@pytest.mark.parametrize("how", ["admit", "insert"])
async def test_column_survives_admission(store: Any, epoch: int, name: str, how: str) -> None:
    await holding(store, epoch, "other", run_id=PARENT)
    await column_is_kept(store, epoch, name, how)


# -- put


@each_column
async def test_put_records_the_fields_that_it_takes(store: Any, name: str) -> None:
    await store.put("r", thread_id="t")
    await store.put("r", **admission(name))
    kept = getattr(await row_of(store, "r"), name)
    expected = VALUES[name] if name in RECORDED and name != "thread_id" else kept
    assert kept == expected
    await store.put("s", **admission(name))
    assert getattr(await row_of(store, "s"), name) == (VALUES[name] if name in RECORDED else default_of(name))


class Records(RunStore):
    """A gateway's own store, which keeps the arguments of each `put`."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    async def put(self, run_id: str, **columns: Any) -> None:
        self.rows[run_id] = columns


@each_column
async def test_record_store_receives_the_fields_that_its_put_takes(name: str) -> None:
    records = Records()
    store = PlainStore(records, PersistenceRetryPolicy())
    epoch = await store.register(new_worker())
    taken = name in inspect.signature(RunStore.put).parameters
    if name in ("parent_run_id", "kind"):
        assert not taken
        return
    request = new_run(**admission(name))
    await store.admit(request, epoch=epoch, limits=Limits())
    row = records.rows[request.run_id]
    assert (name in row) == taken
    if taken and name != "kwargs":
        assert row[name] == VALUES[name]
    await store.aclose()


# -- the idempotency hash


@each_field
def test_hash_depends_on_each_hashed_field(name: str) -> None:
    plain = RunSpec(thread_id="t")
    other = replace(plain, **{name: VALUES[name]})
    assert (body_hash(plain) != body_hash(other)) == (ROLES[name].hashed is not None)


def test_no_two_fields_have_the_same_hash() -> None:
    hashed = [name for name, role in ROLES.items() if role.hashed is not None]
    specs = [replace(RunSpec(thread_id="t"), **{name: VALUES[name]}) for name in hashed]
    assert len({*map(body_hash, specs)}) == len(hashed)


# -- another worker


@pytest.mark.parametrize("where", ["sqlite", "postgres"])
async def test_taken_over_run_has_every_field(where: str, tmp_path: Path, shared_postgres: Database) -> None:
    seen: list[RunContext] = []

    @assistant(name="agent", retries=VALUES["retries"])
    async def agent(ctx: RunContext) -> None:
        seen.append(ctx)

    async with AsyncExitStack() as stack:
        if where == "postgres":
            url, schema = await stack.enter_async_context(shared_postgres.worker())
            settings = Settings(store=url, postgres_schema=schema, **QUICK)
        else:
            settings = Settings(store=f"sqlite:///{tmp_path / 'runs.db'}", **QUICK)
        home = await stack.enter_async_context(
            open_coordinator(settings=settings, assistants={"agent": agent})
        )
        heir = await stack.enter_async_context(
            open_coordinator(settings=settings, assistants={"agent": agent})
        )
        holder = await heir.create_or_reject("t", user_id="user")
        parent = await heir.create_or_reject("parent", user_id="user")
        values: dict[str, Any] = {**VALUES, "kind": "run", "thread_id": "t", "parent_run_id": parent.run_id}
        spec = RunSpec(**{name: values[name] for name in COLUMN_NAMES})
        record = await home.admit(spec)
        before = await row_of(heir.store, record.run_id)
        home.launch(record)
        await home.shutdown(timeout=0)
        await heir.set_status(holder.run_id, RunStatus.success)
        await heir.wait(record.run_id, timeout=10)
        assert RunSpec.of(before) == RunSpec.of(await row_of(heir.store, record.run_id)) == spec
        (taken,) = seen
        shared = [name for name in COLUMN_NAMES if name in RunRecord.__dataclass_fields__]
        assert {name: getattr(taken.run, name) for name in shared} == {name: values[name] for name in shared}


# -- the record, and what clients see


@each_column
async def test_record_has_every_field(name: str) -> None:
    if name in RunRecord.__dataclass_fields__:
        async with open_coordinator(settings=Settings(store="memory://")) as manager:
            parent = await manager.create_or_reject("other")
            value = parent.run_id if name == "parent_run_id" else VALUES[name]
            values: dict[str, Any] = {"thread_id": "t", name: value}
            record = await manager.admit(RunSpec(**values))
            read = await manager.get(record.run_id)
            assert read is not None
            assert getattr(record, name) == getattr(read, name) == value


@each_field
async def test_document_shows_the_field(name: str) -> None:
    if name in NOT_SHOWN:
        assert name not in Run.model_fields
        return
    assert name in get_args(RunField)
    async with open_coordinator(
        settings=Settings(store="memory://"), assistants={"agent": _nothing}
    ) as manager:
        record = await manager.admit(RunSpec(**admission(name)))
        row = await row_of(manager.store, record.run_id)
        expected = manager.assistants.id_of("agent") if name == "assistant_id" else VALUES[name]
        assert run_created(record, manager.assistants)[name] == expected
        assert run_document(row, manager.assistants)[name] == expected


async def _nothing(ctx: RunContext) -> None:
    pass


@pytest.mark.parametrize("name", SHOWN_OF_ROWS)
async def test_document_shows_the_column_as_it_is_stored(store: Any, epoch: int, name: str) -> None:
    own = await running(store, epoch)
    await store.update_status(own.run_id, "error", error="ValueError: no")
    row = await row_of(store, own.run_id)
    assert getattr(row, name) is not None
    async with open_coordinator("memory://") as manager:
        assert run_document(row, manager.assistants)[name] == getattr(row, name)


@each_field
async def test_body_carries_the_field(name: str) -> None:
    if name in NOT_IN_BODIES:
        assert name not in RunOptions.model_fields
        return
    manager = RunManager(settings=Settings(tick=0.05, grace=0))
    async with serving(manager=manager) as (_, client):
        body = {"assistant_id": "agent", "if_not_exists": "create", name: VALUES[name]}
        answer = await client.post(f"/threads/{'0' * 32}/runs", json=body)
        assert answer.status_code == 200, answer.text
        row = await row_of(manager.store, answer.json()["run_id"])
        if name in COLUMN_NAMES:
            assert getattr(row, name) == VALUES[name]
        if name not in NOT_SHOWN:
            assert answer.json()[name] == VALUES[name]
        if name == "webhook":
            assert isinstance(manager.store, WebhookStore)
            assert [hook.url for hook in await manager.store.webhooks()] == [VALUES[name]]


# -- the edge


def test_arguments_are_checked_once_by_name() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        spec_of(thread_id="t", colour="red")


async def test_unknown_argument_is_a_type_error_as_of_create_or_reject() -> None:
    manager = RunManager()
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        manager.spec("t", colour="red")
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        await manager.create_or_reject("t", colour="red")  # pyright: ignore[reportCallIssue]
