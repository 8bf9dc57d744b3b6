"""The checkpoints of a thread of functions: a tree. A run may start from each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from coordinator import (
    CancelAction,
    CheckpointRef,
    Interrupt,
    InvalidArgument,
    Outcome,
    RunContext,
    RunFailed,
    RunManager,
    StateView,
    assistant,
    open_coordinator,
)
from tests.support.teams import QUICK
from tests.support.waiting import wait_until


class Turn(BaseModel):
    text: str


@assistant(name="chat", input=Turn)
async def chat(ctx: RunContext) -> dict[str, Any]:
    values: dict[str, Any] = ctx.values or {"texts": []}
    texts: list[str] = [*values["texts"], ctx.input.text]
    await ctx.save({"texts": texts})
    if ctx.input.text == "wait":
        await asyncio.Event().wait()
    return {"texts": [*texts, f"{ctx.input.text}!{len(texts)}"]}


async def pauses(ctx: RunContext) -> Outcome:
    if ctx.request.command is None:
        return Outcome(values={"question": ctx.input}, paused=True, interrupts=(Interrupt("may I?", "q"),))
    return Outcome(values={**ctx.values, "answer": ctx.request.command.resume})


AGENTS: dict[str, Any] = {"chat": chat, "pauses": pauses}


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncGenerator[tuple[RunManager, RunManager]]:
    url = f"sqlite:///{tmp_path}/runs.db"
    async with (
        open_coordinator(url, assistants=AGENTS, **QUICK) as one,
        open_coordinator(url, assistants=AGENTS, **QUICK) as two,
    ):
        yield one, two


async def done(manager: RunManager, text: str | None, at: CheckpointRef | None = None, **more: Any) -> Any:
    kwargs: dict[str, Any] = {"input": None if text is None else {"text": text}}
    if at is not None:
        kwargs["checkpoint"] = {"checkpoint_id": at.checkpoint_id}
    run = await manager.create_or_reject("t", more.pop("name", "chat"), kwargs=kwargs | more)
    manager.launch(run)
    return await manager.wait(run.run_id, timeout=10)


async def past(manager: RunManager, **which: Any) -> list[StateView]:
    return [view async for view in manager.threads.history("t", **which)]


def texts_of(views: list[StateView]) -> list[Any]:
    return [None if view.values is None else view.values["texts"] for view in views]


async def state(manager: RunManager, at: CheckpointRef | None = None) -> StateView:
    view = await manager.threads.state("t", at)
    assert view is not None
    return view


async def until_saved(manager: RunManager, run_id: str) -> None:
    async def is_head() -> bool:
        return (await state(manager)).checkpoint == CheckpointRef(run_id)

    await wait_until(is_head, description="the run has saved")


A, B = ["a", "a!1"], ["a", "a!1", "b", "b!3"]


async def test_each_run_records_the_state_before_and_after_it(
    pair: tuple[RunManager, RunManager],
) -> None:
    one, two = pair
    await done(one, "a")
    await done(two, "b")
    views = await past(one, limit=10)
    assert texts_of(views) == [B, A, A, None]
    assert [view.metadata["source"] for view in views] == ["loop", "input"] * 2
    assert [view.next for view in views] == [(), ("__start__",)] * 2
    for view, parent in zip(views, [*views[1:], None], strict=True):
        assert view.parent == (None if parent is None else parent.checkpoint)
        assert await state(two, view.checkpoint) == view
    assert views[0] == await state(two)
    runs = await one.runs.of_thread("t")
    assert [view.metadata["run_id"] for view in views] == [run.run_id for run in runs for _ in range(2)]
    assert await past(two, limit=1) == views[:1]
    for place, view in enumerate(views):
        assert await past(two, before=view.checkpoint) == views[place + 1 :]
    assert await past(two, before=CheckpointRef("unknown")) == []
    assert await past(two, metadata={"source": "input"}) == views[1::2]
    assert [view.metadata["graph_id"] for view in views] == ["chat"] * 4


async def test_edited_question_branches_from_the_checkpoint_before_it(
    pair: tuple[RunManager, RunManager],
) -> None:
    one, two = pair
    await done(one, "a")
    await done(one, "b")
    old = await past(one)
    edited = await done(two, "c", at=old[0].parent)
    assert edited == {"texts": [*A, "c", "c!3"]}
    head = await state(one)
    assert head.values == edited
    views = await past(one)
    assert views[2:] == old, "nothing is lost"
    assert views[1].parent == old[1].checkpoint, "a branch, from the checkpoint before the old question"
    assert (await state(one, old[0].checkpoint)).values == {"texts": B}


async def test_answer_is_regenerated_from_its_first_checkpoint(pair: tuple[RunManager, RunManager]) -> None:
    one, two = pair
    await done(one, "a")
    await done(one, "b")
    old = await past(one)
    for worker in (two, one):
        assert await done(worker, None, at=old[0].parent) == {"texts": B}, "the same question again"
    views = await past(one)
    assert [view.parent for view in views[:3]] == [old[1].checkpoint] * 3, "versions of one answer"
    assert texts_of(views) == [B, B, B, A, A, None]
    first = await past(one, metadata={"source": "input"})
    assert await done(two, None, at=first[-1].checkpoint) == {"texts": A}, (
        "also the first question of the thread"
    )


async def test_run_starts_from_any_checkpoint(pair: tuple[RunManager, RunManager]) -> None:
    one, _ = pair
    for text in ("a", "b", "c"):
        await done(one, text)
    after_a = (await past(one))[4].checkpoint
    assert await done(one, "z", at=after_a) == {"texts": [*A, "z", "z!3"]}
    assert (await past(one))[1].parent == after_a
    assert await done(one, "next") == {"texts": [*A, "z", "z!3", "next", "next!5"]}, "from the new branch"


async def test_unknown_checkpoint_is_refused(pair: tuple[RunManager, RunManager]) -> None:
    one, _ = pair
    await done(one, "a")
    for at in (CheckpointRef("unknown"), CheckpointRef("unknown.input")):
        with pytest.raises(RunFailed, match="no checkpoint"):
            await done(one, "b", at=at)
        assert await one.threads.state("t", at) is None
        with pytest.raises(InvalidArgument, match="checkpoint"):
            await one.threads.update_state("t", {}, at=at)
    other = await one.create_or_reject("other", "chat", kwargs={"input": {"text": "x"}})
    one.launch(other)
    await one.wait(other.run_id, timeout=10)
    with pytest.raises(RunFailed, match="no checkpoint"):
        await done(one, "b", at=CheckpointRef(other.run_id))
    with pytest.raises(InvalidArgument, match="input"):
        await done(one, None, at=CheckpointRef(other.run_id))
    assert (await state(one)).values == {"texts": A}


async def test_state_update_creates_a_checkpoint_and_a_branch(pair: tuple[RunManager, RunManager]) -> None:
    one, two = pair
    await done(one, "a")
    await done(one, "b")
    old = await past(one)
    new = await two.threads.update_state("t", {"title": "x"}, at=old[2].checkpoint)
    head = await state(one)
    assert (head.checkpoint, head.parent) == (new, old[2].checkpoint)
    assert head.values == {"texts": A, "title": "x"}
    assert head.metadata["source"] == "update"
    assert (await past(one))[1:] == old
    back = await two.threads.update_state("t", None, at=old[0].checkpoint)
    assert ((await state(one)).checkpoint, (await state(one)).values) == (back, {"texts": B})
    assert await two.threads.update_state("t", None) == back, "nothing changes"
    assert (await state(one)).checkpoint == back


async def test_resumed_run_shows_its_final_checkpoint(
    pair: tuple[RunManager, RunManager],
) -> None:
    one, two = pair
    await done(one, "a")
    run = await one.create_or_reject("t", "chat", kwargs={"input": {"text": "wait"}})
    one.launch(run)
    await until_saved(two, run.run_id)
    assert (await state(two)).values == {"texts": [*A, "wait"]}
    assert await two.cancel(run.run_id, wait=10)
    head = await state(one)
    assert (head.checkpoint, head.values, head.next) == (
        CheckpointRef(run.run_id),
        {"texts": [*A, "wait"]},
        (),
    )
    assert await done(two, "b", at=head.checkpoint) == {"texts": [*A, "wait", "b", "b!4"]}


async def test_rollback_removes_checkpoints_and_restores_the_values(
    pair: tuple[RunManager, RunManager],
) -> None:
    one, two = pair
    await done(one, "a")
    await done(one, "b")
    old = await past(one)
    kwargs = {"input": {"text": "wait"}, "checkpoint": {"checkpoint_id": old[3].checkpoint.checkpoint_id}}  # type: ignore[union-attr]  # each step of `past` has one
    run = await one.create_or_reject("t", "chat", kwargs=kwargs)
    one.launch(run)
    await until_saved(two, run.run_id)
    assert (await state(two)).values == {"texts": ["wait"]}
    assert await two.cancel(run.run_id, action=CancelAction.rollback, wait=10)
    assert await past(two) == old


async def test_question_of_a_paused_run_and_its_answer_are_checkpoints(
    pair: tuple[RunManager, RunManager],
) -> None:
    one, two = pair
    await done(one, "x", name="pauses")
    paused = await state(two)
    assert (paused.next, paused.interrupts) == (("pauses",), (Interrupt("may I?", "q"),))
    await done(two, None, name="pauses", command={"resume": True})
    answered, before, beginning = await past(one)
    assert (answered.values["answer"], answered.next, answered.interrupts) == (True, (), ())
    assert answered.parent == before.checkpoint == paused.checkpoint
    assert (before.next, before.interrupts) == (paused.next, paused.interrupts)
    assert beginning.metadata["source"] == "input"


async def test_checkpoints_are_removed_with_their_run_and_thread(pair: tuple[RunManager, RunManager]) -> None:
    one, two = pair
    for text in ("a", "b", "c"):
        await done(one, text)
    views = await past(one)
    middle = str(views[2].metadata["run_id"])
    await two.runs.delete(middle)
    left = await past(one)
    assert [view.checkpoint for view in left] == [view.checkpoint for view in (*views[:2], *views[4:])]
    assert left[1].parent == views[4].checkpoint
    await two.threads.copy("t", "copy")
    copy = [view async for view in one.threads.history("copy")]
    assert [view.values for view in copy] == [views[0].values]
    await two.threads.delete("t")
    await done(one, "new")
    assert texts_of(await past(one)) == [["new", "new!1"], None]
