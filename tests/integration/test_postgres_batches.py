"""A batch makes what its calls, one after another by their places, would have made; what it leaves out it has
not touched."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

from stores.errors import ConflictError, CoordinatorError
from stores.memory import MemoryStore
from stores.rows import Admission, Limits, Outcome, Ownership
from stores.sql.postgres import admission, decisions, ownership
from stores.sql.postgres.calls import BatchFunction, Call, Rows
from stores.states import CancelAction, Cause, RunStatus
from tests.support.builders import SUCCESS, StoreClock, cancel, fence_epoch, new_run, new_worker
from tests.support.inside_stores import batch_pool_of
from tests.support.postgres import Database
from tests.support.twins import TwinStore, answer_of

ROUNDS = 25
USERS = (None, None, "u", "v")
STRATEGIES = ("reject", "reject", "reject", "enqueue", "interrupt", "rollback")


class _Operation(NamedTuple):
    """One operation, as the port names it and as the engine makes it."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    call: Call[Any]


class Batches:
    def __init__(self, twins: TwinStore, clock: StoreClock) -> None:
        self.twins: Any = twins  # what it answers is known by the name of the operation
        self.clock, self.left_out = clock, 0

    def admit(self, thread_id: str, epoch: int, **fields: Any) -> _Operation:
        run = new_run(thread_id, **fields)
        call = admission.admit(self.clock(), run, epoch, Limits())
        return _Operation("admit", (run,), {"epoch": epoch, "limits": Limits()}, call)

    def insert(self, thread_id: str, epoch: int, **fields: Any) -> _Operation:
        run = new_run(thread_id, **fields)
        return _Operation("insert", (run,), {"epoch": epoch}, admission.insert(self.clock(), run, epoch))

    def start(self, own: Ownership, ref: Any) -> _Operation:
        return _Operation("start", (own, ref), {}, ownership.start(self.clock(), own, ref))

    def finish(self, own: Ownership, outcome: Outcome, *, hold: bool = False) -> _Operation:
        call = ownership.finish(self.clock(), own, outcome, hold=hold)
        return _Operation("finish", (own, outcome), {"hold": hold}, call)

    def decide(self, run_id: str, **how: Any) -> _Operation:
        options: dict[str, Any] = {
            "action": CancelAction.interrupt,
            "cause": Cause.user,
            "reason": None,
            "actor": "an operator",
        }
        options |= {"error": None, "while_waiting": False, "home": None, **how}
        call = decisions.decide(self.clock(), run_id, RunStatus.interrupted, **options)
        return _Operation("decide", (run_id, RunStatus.interrupted), options, call)

    async def make(self, batch: Sequence[_Operation]) -> list[Any]:
        """What each was answered, None = refused: first those that the batch has made, then the others,
        alone; all of them as the reference answers them in that order."""
        function = batch[0].call.statement
        assert isinstance(function, BatchFunction)
        answers: list[Any] = [None] * len(batch)
        until = asyncio.get_running_loop().time() + 5
        calls = function.batch([operation.call for operation in batch])
        rows: Rows = await batch_pool_of(self.twins.tested).rows_once(function.sql_of_batch, calls, until)
        made: dict[int, list[Any]] = {place: columns for place, *columns in rows}
        for place, columns in sorted(made.items()):
            operation = batch[place - 1]
            error: CoordinatorError | None = None
            try:
                answers[place - 1] = operation.call.answer([columns])
            except CoordinatorError as refusal:
                error = refusal
            name, args, kwargs, _ = operation
            await self.twins.agrees(name, args, kwargs, answers[place - 1], error)
        for place in set(range(1, len(batch) + 1)) - made.keys():
            self.left_out += 1
            name, args, kwargs, _ = batch[place - 1]
            answers[place - 1], _ = await answer_of(self.twins, name, args, kwargs)
        return answers


@pytest.fixture
async def batches(shared_postgres: Database) -> AsyncGenerator[Batches]:
    clock = StoreClock()
    async with shared_postgres.store(clock=clock) as tested:
        twins = TwinStore(tested, MemoryStore(clock=clock, shared=True))
        await twins.reference.open()
        try:
            yield Batches(twins, clock)
            await twins.compare_tables()
        finally:
            await twins.reference.aclose()


class Life:
    """Some threads, and random batches of operations on them."""

    def __init__(self, batches: Batches, seed: int, epochs: Sequence[int]) -> None:
        self.batches, self.random, self.epochs = batches, random.Random(seed), epochs
        self.seed = seed
        self.threads = [f"{seed}-{number}" for number in range(4)]
        self.own: list[Ownership] = []
        self.admitted: list[str] = []

    def any_admission(self) -> _Operation:
        pick, fields = self.random, dict[str, Any]()
        fields["user_id"], fields["adopt_thread"] = pick.choice(USERS), pick.random() < 0.3
        if pick.random() < 0.2:
            fields["thread_must_exist"] = True
        if pick.random() < 0.2:
            fields["temporary_ms"] = 60_000
        if pick.random() < 0.3:
            fields["idempotency_key"] = f"{self.seed} {pick.randrange(6)}"
            fields["request_hash"] = pick.choice("abb")
        if pick.random() < 0.2:
            fields["webhook"] = "https://example.com/hook"
        if pick.random() < 0.15 and self.own:
            fields["run_id"] = pick.choice(self.own).run_id
        thread_id, epoch = pick.choice(self.threads), pick.choice(self.epochs)
        if pick.random() < 0.15:
            return self.batches.insert(thread_id, epoch, user_id=fields["user_id"])
        return self.batches.admit(thread_id, epoch, multitask_strategy=pick.choice(STRATEGIES), **fields)

    def any_own(self) -> Ownership:
        """Now and then with a fence or an epoch that was never given."""
        own = self.random.choice(self.own)
        if self.random.random() < 0.1:
            return own._replace(fence=own.fence + 1)
        return own._replace(epoch=self.random.choice(self.epochs)) if self.random.random() < 0.1 else own

    def any_outcome(self) -> Outcome:
        pick = self.random
        return Outcome(
            RunStatus.success,
            result=pick.choice((None, {"answer": 1})),
            values=pick.choice((None, {"seen": pick.random()})),
            paused=(paused := pick.random() < 0.3),
            interrupts=[{"value": "?"}] if paused else None,
        )

    def any_decision(self) -> _Operation:
        pick = self.random
        run_id = pick.choice(self.admitted) if pick.random() < 0.9 else "unknown"
        action = pick.choice((CancelAction.interrupt, CancelAction.rollback))
        home = pick.choice((None, None, *self.epochs))
        waits = pick.random() < 0.2
        return self.batches.decide(run_id, action=action, while_waiting=waits, home=home)

    async def go(self, length: int) -> None:
        for _ in range(length):
            await self.trouble()
            operations = [self.any_admission() for _ in range(self.random.randint(1, 8))]
            answers = await self.batches.make(operations)
            for one, answer in zip(operations, answers, strict=True):
                if isinstance(answer, Admission):
                    self.admitted.append(answer.run_id)
                if isinstance(answer, Admission) and answer.holds:
                    run, epoch = one.args[0], one.kwargs["epoch"]
                    self.own.append(Ownership(run.run_id, run.spec.thread_id, epoch, answer.fence))
            if self.own:
                some = range(self.random.randint(1, 6))
                await self.batches.make(
                    [self.batches.start(self.any_own(), {"kind": "values"}) for _ in some]
                )
                if self.random.random() < 0.5:
                    await self.batches.make([self.any_decision() for _ in some])
                hold = self.random.random() < 0.2
                await self.batches.make(
                    [self.batches.finish(self.any_own(), self.any_outcome(), hold=hold) for _ in some]
                )
            self.batches.clock.advance(0.5)

    async def trouble(self) -> None:
        """What is no batch's business, between two of them."""
        twins, thread_id = self.batches.twins, self.random.choice(self.threads)
        with suppress(CoordinatorError):
            match self.random.randint(0, 4):
                case 0:
                    run = new_run(thread_id, delay_ms=400)
                    await twins.admit(run, epoch=self.epochs[0], limits=Limits())
                case 1 if self.own:
                    await cancel(twins, self.random.choice(self.own).run_id)
                case 2:
                    run = new_run(thread_id, multitask_strategy="enqueue")
                    await twins.admit(run, epoch=self.epochs[0], limits=Limits())
                case 3 if self.own:
                    run = new_run(f"{thread_id} child", parent_run_id=self.random.choice(self.own).run_id)
                    self.admitted.append(
                        (await twins.admit(run, epoch=self.epochs[0], limits=Limits())).run_id
                    )
                case _:
                    pass


async def test_a_batch_is_its_calls_one_after_another(batches: Batches) -> None:
    twins = batches.twins
    epochs = [await twins.register(new_worker()) for _ in range(3)]
    await fence_epoch(twins, epochs[2], by=epochs[0])
    made = 0
    for seed in range(ROUNDS):
        life = Life(batches, seed, epochs)
        await life.go(4)
        made += len(life.own)
    assert made > ROUNDS
    assert batches.left_out > ROUNDS


async def test_of_several_for_one_thread_the_first_gets_it_and_the_others_get_its_run_id(
    batches: Batches,
) -> None:
    epoch = await batches.twins.register(new_worker())
    operations = [batches.admit("t", epoch) for _ in range(5)]
    won, *lost = await batches.make(operations)
    assert won.holds
    assert (lost, batches.left_out) == ([None] * 4, 0)
    with pytest.raises(ConflictError) as conflict:
        await batches.twins.admit(new_run("t"), epoch=epoch, limits=Limits())
    assert conflict.value.active_run_id == won.run_id


async def test_new_thread_is_that_of_the_first_admission_of_a_live_worker(batches: Batches) -> None:
    """A batch writes it before it knows which runs take their threads."""
    twins = batches.twins
    dead, live = [await twins.register(new_worker()) for _ in range(2)]
    await fence_epoch(twins, dead, by=live)
    (known,) = await batches.make([batches.admit("known", live)])
    _, taken, absent, elsewhere = await batches.make([
        batches.admit("t", dead, user_id="u", assistant_id="a"),
        batches.admit("t", live, assistant_id="b"),
        batches.admit("absent", live, thread_must_exist=True),
        batches.admit("elsewhere", live, run_id=known.run_id),
    ])  # fmt: skip
    assert (taken.holds, taken.fence, taken.seq, absent, elsewhere) == (True, 1, 1, None, None)
    thread = await twins.thread("t")
    assert (thread.user_id, thread.assistant_id) == (None, "b")
    assert await twins.thread("absent") is await twins.thread("elsewhere") is None


async def test_a_batch_leaves_out_what_another_session_has_locked(
    batches: Batches, shared_postgres: Database
) -> None:
    twins = batches.twins
    epoch = await twins.register(new_worker())
    (held,) = await batches.make([batches.admit("held", epoch)])
    own = Ownership(held.run_id, "held", epoch, held.fence)
    schema = twins.tested.schema
    async with shared_postgres.connection() as stranger, stranger.transaction():
        await stranger.execute(f"SELECT FROM {schema}.threads WHERE thread_id = 'held' FOR UPDATE")
        await stranger.execute(f"SELECT FROM {schema}.runs WHERE run_id = $1 FOR UPDATE", held.run_id)
        for operation in (
            batches.admit("held", epoch), batches.start(own, None), batches.finish(own, SUCCESS),
        ):  # fmt: skip
            function = operation.call.statement
            assert isinstance(function, BatchFunction)
            until = asyncio.get_running_loop().time() + 5
            calls = function.batch([operation.call])
            assert not await batch_pool_of(twins.tested).rows_once(function.sql_of_batch, calls, until)


async def test_admissions_with_keys_are_made_in_a_batch(batches: Batches, shared_postgres: Database) -> None:
    """Except an admission whose key is locked, already used, or earlier in the same batch."""
    twins = batches.twins
    epoch = await twins.register(new_worker())
    schema = twins.tested.schema

    def with_key(thread_id: str, key: str) -> _Operation:
        return batches.admit(thread_id, epoch, idempotency_key=key, request_hash="h")

    admissions = await batches.make([with_key(f"t{number}", f"key {number}") for number in range(10)])
    assert all(admission.holds for admission in admissions)
    assert batches.left_out == 0
    again = with_key("t0", "key 0")
    (repeated,) = await batches.make([again])
    assert (repeated.run_id, batches.left_out) == (admissions[0].run_id, 1)
    first, _ = await batches.make([with_key("u", "key"), with_key("v", "key")])
    assert (first.holds, batches.left_out) == (True, 2)
    held = with_key("w", "held")
    function = held.call.statement
    assert isinstance(function, BatchFunction)
    async with shared_postgres.connection() as stranger, stranger.transaction():
        await stranger.execute(
            f"SELECT pg_advisory_xact_lock('{schema}.runs'::regclass::oid::int4, hashtext('held'))"
        )
        until = asyncio.get_running_loop().time() + 5
        calls = function.batch([held.call])
        assert not await batch_pool_of(twins.tested).rows_once(function.sql_of_batch, calls, until)
