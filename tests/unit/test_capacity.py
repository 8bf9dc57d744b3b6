"""Places of a worker: limits, and an order that is fair to users."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from coordinator.record import RunRecord, record_of
from coordinator.runs.capacity import Capacity, RunningLimits
from stores.claims import ClaimableQuery
from stores.spec import RunSpec


class Line:
    """Runs that want places. `order`: the runs that got one, in order."""

    def __init__(self, limits: RunningLimits) -> None:
        self.capacity, self.order = Capacity(limits), list[str]()
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def want(self, name: str, user: str | None = None, assistant: str | None = None) -> None:
        async def take() -> None:
            if await self.capacity.acquire(user, assistant):
                self.order.append(name)

        self.tasks[name] = asyncio.create_task(take())
        await asyncio.sleep(0)

    async def free(self, user: str | None = None, assistant: str | None = None) -> None:
        self.capacity.release(user, assistant)
        await asyncio.sleep(0)


async def test_worker_executes_no_more_than_its_limit() -> None:
    line = Line(RunningLimits(worker=2))
    for name in ("a", "b", "c"):
        await line.want(name)
    assert line.order == ["a", "b"]
    assert line.capacity.waiting == 1
    await line.free()
    assert line.order == ["a", "b", "c"]
    assert line.capacity.waiting == 0


async def test_users_are_served_in_turn() -> None:
    line = Line(RunningLimits(worker=1))
    for name in ("a1", "a2", "a3", "b1", "c1", "b2"):
        await line.want(name, user=name[0])
    for user in "abcab":
        await line.free(user=user)
    assert line.order == ["a1", "a2", "b1", "c1", "a3", "b2"]


async def test_user_at_the_limit_delays_no_other_user() -> None:
    line = Line(RunningLimits(worker=3, user=1))
    for name in ("a1", "a2", "b1"):
        await line.want(name, user=name[0])
    assert line.order == ["a1", "b1"]
    await line.free(user="a")
    assert line.order == ["a1", "b1", "a2"]


async def test_assistant_at_the_limit_delays_no_other_assistant_of_the_same_user() -> None:
    line = Line(RunningLimits(assistant=1))
    await line.want("slow 1", "u", "slow")
    await line.want("slow 2", "u", "slow")
    await line.want("quick", "u", "quick")
    assert line.order == ["slow 1", "quick"]
    await line.free("u", "slow")
    assert line.order[-1] == "slow 2"


def run_of(user: str | None, run_id: str = "r", parent: str | None = None) -> RunRecord:
    record = record_of(
        run_id, RunSpec(thread_id="t", assistant_id="x", user_id=user), "2026-01-01T00:00:00+00:00"
    )
    record.parent_run_id = parent
    return record


async def test_runs_of_a_user_at_its_limit_are_not_claimed() -> None:
    line = Line(RunningLimits(worker=3, user=1))
    await line.want("a1", "a", "x")
    assert (line.capacity.fits("a", "x"), line.capacity.fits("b", "x")) == (False, True)
    assert line.capacity.next_claims() == ClaimableQuery(2, full_users=("a",))
    await line.want("a2", "a", "x")
    assert line.capacity.next_claims() == ClaimableQuery(2, full_users=("a",)), "what waits has no place"
    with line.capacity.claiming("b", "x"):
        assert not line.capacity.fits("b", "x"), "a claim has its place"
        assert line.capacity.next_claims() == ClaimableQuery(1, "b", ("a", "b"))
    assert line.capacity.fits("b", "x")
    line.tasks["a2"].cancel()


async def test_run_that_was_taken_over_has_its_place_before_it_acquires_it() -> None:
    line = Line(RunningLimits(worker=2, assistant=2))
    line.capacity.expect(run_of("a", "child", parent="p"))
    assert line.capacity.next_claims() == ClaimableQuery(2), "a child uses the place of its parent"
    run = run_of("a")
    line.capacity.expect(run)
    line.capacity.expect(run)
    assert line.capacity.next_claims() == ClaimableQuery(1)
    line.capacity.expect_no_more(run)
    line.capacity.expect_no_more(run)
    await line.want("a1", "a", "x")
    await line.want("b1", "b", "x")
    assert line.capacity.next_claims() is None
    await line.free("a", "x")
    assert line.capacity.next_claims() == ClaimableQuery(1)


async def test_cancelled_waiter_leaves_the_line() -> None:
    line = Line(RunningLimits(worker=1))
    for name in ("a", "b", "c"):
        await line.want(name)
    line.tasks["b"].cancel()
    await asyncio.wait([line.tasks["b"]])
    await line.free()
    assert line.order == ["a", "c"]


async def test_place_that_was_granted_in_the_turn_of_the_cancel_is_passed_on() -> None:
    line = Line(RunningLimits(worker=1))
    for name in ("a", "b", "c"):
        await line.want(name)
    line.capacity.release(None, None)
    line.tasks["b"].cancel()
    await asyncio.wait([line.tasks["b"], line.tasks["c"]])
    assert line.order == ["a", "c"]


async def test_waiter_that_was_cancelled_in_the_turn_of_a_release_takes_no_place() -> None:
    line = Line(RunningLimits(worker=1))
    for name in ("a", "b", "c"):
        await line.want(name)
    line.tasks["b"].cancel()
    line.capacity.release(None, None)
    await asyncio.wait([line.tasks["b"], line.tasks["c"]])
    assert line.order == ["a", "c"]
    await line.free()
    assert line.capacity.waiting == 0


_OPTIONAL = st.none() | st.integers(1, 3)
_STEPS = st.lists(
    st.tuples(st.sampled_from(["want", "free", "cancel"]), st.sampled_from("abc"), st.sampled_from("xy")),
    max_size=40,
)


@given(st.builds(RunningLimits, _OPTIONAL, _OPTIONAL, _OPTIONAL), _STEPS)
def test_limits_hold_and_no_run_waits_that_fits(
    limits: RunningLimits, steps: list[tuple[str, str, str]]
) -> None:
    """After any steps: no count is above its limit, every run that fits executes, nothing is counted for
    runs that are over."""

    async def walk() -> None:
        line, executing, waiting = Line(limits), list[str](), list[str]()
        wanted: dict[str, tuple[str, str]] = {}
        for number, (step, user, assistant) in enumerate(steps):
            if step == "want":
                wanted[f"{number}"] = (user, assistant)
                await line.want(f"{number}", user, assistant)
            elif step == "free" and executing:
                await line.free(*wanted.pop(executing[0]))
            elif step == "cancel" and waiting:
                line.tasks[waiting[0]].cancel()
                await asyncio.wait([line.tasks[waiting[0]]])
                del wanted[waiting[0]]
            executing = [name for name in line.order if name in wanted]
            waiting = [name for name in wanted if name not in executing]
            assert line.capacity.waiting == len(waiting)
            for name in waiting:
                assert _full(limits, [wanted[one] for one in executing], *wanted[name])
            for user_, assistant_ in map(wanted.__getitem__, executing):
                others = [wanted[one] for one in executing]
                others.remove((user_, assistant_))
                assert not _full(limits, others, user_, assistant_)
        for name in waiting:
            line.tasks[name].cancel()
        await asyncio.gather(*line.tasks.values(), return_exceptions=True)

    asyncio.run(walk())


def _full(limits: RunningLimits, executing: list[tuple[str, str]], user: str, assistant: str) -> bool:
    counts = (
        len(executing),
        sum(other == assistant for _, other in executing),
        sum(other == user for other, _ in executing),
    )
    return any(limit is not None and count >= limit for limit, count in zip(limits, counts, strict=True))
