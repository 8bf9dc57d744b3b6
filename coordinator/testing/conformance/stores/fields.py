"""Each field of what callers pass: of a spec, of a request for admission, of an outcome. The walks are over
the fields themselves, so that a field that is added is checked as well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from coordinator.testing.conformance.stores.builders import (
    ENDED,
    SUCCESS,
    Field,
    StoreCase,
    admitted,
    decided,
    declared_dead,
    holding,
    new_run,
    row_of,
    running,
    thread_of,
    waiting,
)
from coordinator.testing.conformance.suite import Check, checks_for, checks_of, refused
from stores.base import CoordinationStore
from stores.crons import CronRow, CronStore, Firing
from stores.errors import ThreadNotFound
from stores.rows import Limits, Outcome, Ownership
from stores.spec import COLUMN_NAMES, PRIVATE, RECORDED, ROLES, AdmissionRequest, Kind, RunSpec, default_of
from stores.states import CancelAction, RunStatus
from stores.webhooks import WebhookStore

_FIRING = Firing("cron", 1_000_000, None)
PARENT = "parent"
_CHOSEN: dict[str, Field] = {
    "kind": "op",
    "multitask_strategy": "enqueue",
    "on_disconnect": "continue",
    "parent_run_id": PARENT,
    "webhook": "https://example.org/hook",
    "firing": _FIRING,
}
"""Of fields that do not take every value of their kind."""


_OF_KIND: dict[Kind, Field] = {
    Kind.id: "another id",
    Kind.text: "another text: ü",
    Kind.json: {"another": [1, "ü", None]},
    Kind.opaque_json: {"another": [1, "ü", None, "\ud83d"]},
    Kind.integer: 70_000,
}


def another(name: str) -> Field:
    """A value of the field that is not its default."""
    if name in _CHOSEN:
        return _CHOSEN[name]
    kind = ROLES[name].kind
    return not default_of(name) if kind is Kind.flag else _OF_KIND[kind]


def _with(name: str, **others: Field) -> AdmissionRequest:
    return new_run(**{"thread_id": f"t {name}", **others, name: another(name)})


async def column_is_kept(store: CoordinationStore, epoch: int, name: str, how: str) -> None:
    """From the request to the row, the record and the lists. `how`: admit or insert. Needs a run `PARENT`."""
    request, value = _with(name), another(name)
    if how == "admit":
        await store.admit(request, epoch=epoch, limits=Limits())
    else:
        await store.insert(request, epoch=epoch)
    row, record = await row_of(store, request.run_id), await store.get(request.run_id)
    assert getattr(row, name) == value, f"column {name}"
    for each in COLUMN_NAMES:
        assert getattr(row, each) == getattr(request.spec, each), f"column {each} of a run with a {name}"
    assert record is not None
    assert (name in record) == (name not in PRIVATE), f"{name} of the record"
    assert record.get(name) == (None if name in PRIVATE else value), f"{name} of the record"
    for listed in await store.runs():
        if listed.run_id == request.run_id:
            assert getattr(listed, name) == (None if name in PRIVATE else value), f"{name} in a list"


async def columns_survive(case: StoreCase, how: str) -> None:
    store, (me, _) = case.store, await case.workers()
    await holding(store, me, "other", run_id=PARENT)
    for name in COLUMN_NAMES:
        await column_is_kept(store, me, name, how)


async def columns_survive_admissions_at_once(case: StoreCase) -> None:
    """A store may send calls that are made at once as one batch."""
    store, (me, _) = case.store, await case.workers()
    values = {name: another(name) for name in COLUMN_NAMES if name not in ("thread_id", "parent_run_id")}
    requests = [new_run(f"t{number}", **{**values, "idempotency_key": f"k{number}"}) for number in range(3)]
    await asyncio.gather(*(store.admit(request, epoch=me, limits=Limits()) for request in requests))
    for request in requests:
        assert RunSpec.of(await row_of(store, request.run_id)) == request.spec


async def records_keep_their_fields(case: StoreCase) -> None:
    store = case.store
    for name in RECORDED:
        fields: dict[str, Field] = {"thread_id": "t", name: another(name)}
        await store.put(f"new {name}", **fields)
        assert getattr(await row_of(store, f"new {name}"), name) == another(name), f"{name} of a new record"
        if name == "thread_id":
            continue  # a run stays on its thread
        await store.put(name, thread_id="t")
        await store.put(name, **fields)
        assert getattr(await row_of(store, name), name) == another(name), f"{name} of a record that exists"


# -- what only admission reads


async def _queue_timeout(case: StoreCase, me: int, request: AdmissionRequest) -> None:
    store = case.store
    await running(store, me)
    limit = request.spec.queue_timeout_ms
    waits = await waiting(store, me, queue_timeout_ms=limit)
    assert limit is not None
    assert (await row_of(store, waits)).queue_deadline_at == case.clock() + limit * 1000


async def _delay(case: StoreCase, me: int, request: AdmissionRequest) -> None:
    await case.store.admit(request, epoch=me, limits=Limits())
    due = case.clock() + another("delay_ms") * 1000
    assert (await row_of(case.store, request.run_id)).not_before == due


async def _webhook(case: StoreCase, me: int, request: AdmissionRequest) -> None:
    store = case.store
    if isinstance(store, WebhookStore):
        await store.admit(request, epoch=me, limits=Limits())
        [row] = await store.webhooks()
        assert (row.run_id, row.url) == (request.run_id, another("webhook"))


async def _fired(case: StoreCase, me: int, request: AdmissionRequest) -> None:
    store = case.store
    if isinstance(store, CronStore):
        cron = CronRow("cron", None, "agent", None, "* * * * *", None, True, None, None, {}, {}, _FIRING.at)
        await store.create_cron(cron, thread_must_exist=False)
        await case.store.admit(request, epoch=me, limits=Limits())
        fired = await store.cron("cron", user_id=None)
        assert fired is not None
        assert (fired.last_run_id, fired.next_at) == (request.run_id, None)


async def _no_thread(case: StoreCase, me: int, request: AdmissionRequest) -> None:
    with refused(ThreadNotFound):
        await case.store.admit(request, epoch=me, limits=Limits())
    assert await case.store.thread(request.spec.thread_id) is None


async def _not_adopted(case: StoreCase, me: int, request: AdmissionRequest) -> None:
    store = case.store
    await admitted(store, me)
    fields: dict[str, Field] = {"user_id": "user", "multitask_strategy": "enqueue"}
    with refused(ThreadNotFound):
        await admitted(store, me, adopt_thread=request.spec.adopt_thread, **fields)
    assert await admitted(store, me, **fields), "a thread without an owner is assigned to the user"
    assert (await thread_of(store)).user_id == "user"


async def _temporary(case: StoreCase, me: int, request: AdmissionRequest) -> None:
    assert (await case.store.admit(request, epoch=me, limits=Limits())).temporary
    thread = await thread_of(case.store, request.spec.thread_id)
    assert (thread.temporary, thread.ttl_ms) == (True, another("temporary_ms"))


EFFECTS: dict[str, Callable[[StoreCase, int, AdmissionRequest], Awaitable[None]]] = {
    "queue_timeout_ms": _queue_timeout,
    "delay_ms": _delay,
    "webhook": _webhook,
    "firing": _fired,
    "thread_must_exist": _no_thread,
    "adopt_thread": _not_adopted,
    "temporary_ms": _temporary,
}
WITHOUT_COLUMN = tuple(name for name in ROLES if name not in COLUMN_NAMES)


async def field_without_a_column_takes_effect(case: StoreCase, name: str) -> None:
    me, _ = await case.workers()
    await EFFECTS[name](case, me, _with(name))


async def row_has_what_the_worker_adds(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    request = new_run()._replace(portable=True, request_hash="h", thread_metadata={"graph_id": "é"})
    await store.admit(request, epoch=me, limits=Limits())
    row = await row_of(store, request.run_id)
    assert (row.created_at, row.portable, row.request_hash) == (request.created_at, True, "h")
    assert row.owner_epoch == me
    assert (await thread_of(store)).metadata == {"graph_id": "é"}


async def admission_gives_metadata_to_a_thread_that_it_creates(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    keys, fresh = {"graph_id": "g"}, {"m": "ü", "n": [None], "graph_id": "g"}
    for thread_id, delay_ms in (("t", None), ("delayed", 60_000)):
        await admitted(
            store, me, thread_id, delay_ms=delay_ms, thread_metadata=keys, new_thread_metadata=fresh
        )
        assert (await thread_of(store, thread_id)).metadata == fresh
        later = {"thread_metadata": {"graph_id": "h"}, "new_thread_metadata": {"m": "another"}}
        await admitted(store, me, thread_id, multitask_strategy="enqueue", **later)
        assert (await thread_of(store, thread_id)).metadata == {**fresh, "graph_id": "h"}


# -- how a run ended


async def outcomes_are_kept(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    state: dict[str, Field] = {"values": {"v": 1}, "interrupts": [{"q": "?"}]}
    for status in (RunStatus.success, RunStatus.error, RunStatus.timeout, RunStatus.interrupted):
        own = await running(store, me)
        outcome = Outcome(status, delivered_at=5, stopped_at=6, log_end=7, **state)
        if status is RunStatus.success:
            outcome = outcome._replace(result={"r": "ü"}, paused=True)
        else:
            outcome = outcome._replace(error=f"{status}: ü")
        await store.finish(own, outcome)
        kept = await _kept(store, own)
        for name, value in outcome._asdict().items():
            assert kept[name] == value, f"{name} of a run that ended with {status}"
        record = await store.get(own.run_id)
        assert record is not None
        assert (record["status"], record["error"]) == (status, outcome.error)


async def webhook_has_the_values_that_a_run_left(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    if not isinstance(store, WebhookStore):
        return
    for status in (RunStatus.error, RunStatus.timeout):
        own = await running(store, me, webhook="https://example.org/hook")
        await store.finish(own, Outcome(status, values={"by": status.value}))
    claimed = await store.claim_webhooks(epoch=me, lease=60.0, limit=10)
    values = {each.run["status"]: each.run["values"] for each in claimed}
    assert values == {status: {"by": status} for status in ("error", "timeout")}


async def _kept(store: CoordinationStore, own: Ownership) -> dict[str, Field]:
    """By the names of an outcome. A field that is added to it is missing here, and fails the check."""
    row, thread = await row_of(store, own.run_id), await thread_of(store)
    return {
        "status": row.status,
        "error": row.error,
        "result": row.result,
        "values": thread.values,
        "paused": row.paused,
        "interrupts": thread.interrupts,
        "delivered_at": row.cancel_delivered_at,
        "stopped_at": row.stopped_at,
        "log_end": row.log_end,
    }


async def error_of_a_settle_is_kept(case: StoreCase) -> None:
    store, (me, _) = case.store, await case.workers()
    own = await running(store, me)
    await store.finish(own, Outcome(RunStatus.error, error="why: ü"), hold=True)
    assert (await row_of(store, own.run_id)).error == "why: ü"
    await store.settle(own, Outcome(RunStatus.error, error="why: ü"))
    assert (await row_of(store, own.run_id)).error == (await thread_of(store)).error == "why: ü"
    await store.finish(await running(store, me), SUCCESS)
    assert (await thread_of(store)).error is None


async def end_of_a_log_is_known_from_the_owner_alone(case: StoreCase) -> None:
    """An owner that settles the run reports it, or None if it is unknown; 0 is a number."""
    store, (me, peer) = case.store, await case.workers()
    for number in (0, 7, None):
        own = await running(store, me)
        await store.finish(own, SUCCESS._replace(log_end=number))
        await store.finish(own, SUCCESS._replace(log_end=9))
        assert (await row_of(store, own.run_id)).log_end == number, "of a run that was finished"
    undone = await running(store, me)
    await decided(store, undone.run_id, action=CancelAction.rollback)
    assert (await store.finish(undone, ENDED._replace(log_end=3))).undo
    assert (await row_of(store, undone.run_id)).log_end is None, "of a run that has not settled"
    await store.settle(undone, ENDED._replace(log_end=3), "done")
    assert (await row_of(store, undone.run_id)).log_end == 3, "of a run that was rolled back"
    orphan = await running(store, peer)
    await declared_dead(store, peer, by=me)
    await store.sweep(by=me, error="dead")
    row = await row_of(store, orphan.run_id)
    assert (row.settled, row.log_end) == (True, None), "of a run whose worker is dead"


_ROW = "a run's row has every field of its request"

FIELDS: tuple[Check[StoreCase], ...] = (
    *checks_for(("admit", "insert"), columns_survive, promise=_ROW),
    *checks_of(
        columns_survive_admissions_at_once,
        row_has_what_the_worker_adds,
        admission_gives_metadata_to_a_thread_that_it_creates,
        promise=_ROW,
    ),
    *checks_for(
        WITHOUT_COLUMN, field_without_a_column_takes_effect, promise="every field of a request takes effect"
    ),
    *checks_of(records_keep_their_fields, promise="a record keeps every field that `put` takes"),
    *checks_of(
        outcomes_are_kept,
        error_of_a_settle_is_kept,
        end_of_a_log_is_known_from_the_owner_alone,
        promise="a run's row has every field of its outcome",
    ),
    *checks_of(webhook_has_the_values_that_a_run_left, promise="a webhook has the final values of its run"),
)
