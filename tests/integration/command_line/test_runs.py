"""`coordinator runs list` and `runs show`."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator import Interrupt, Outcome, RunContext, open_coordinator
from tests.support.command_line import (
    DONE,
    Busy,
    cli,
)

RUN_KEYS = {
    "run_id", "thread_id", "assistant_id", "user_id", "status", "phase", "holds_thread", "position",
    "owner_epoch", "owner_dead", "home_epoch", "fence", "multitask_strategy", "portable", "paused",
    "cancel_action", "cancel_cause",
    "cancel_reason", "cancel_actor", "rollback_state", "error", "metadata", "model_name", "created_at",
    "not_before", "started_at", "ended_at", "settled_at", "updated_at",
}  # fmt: skip


async def test_runs_list(busy: Busy) -> None:
    answer = await busy.cli("runs", "list", "--json")
    assert answer.code == DONE
    runs = answer.document["runs"]
    assert all(set(run) == RUN_KEYS for run in runs)
    assert [run["run_id"] for run in runs] == [
        busy.waiting[1].run_id,
        busy.waiting[0].run_id,
        busy.running.run_id,
        busy.done.run_id,
    ]
    assert [run["phase"] for run in runs] == ["waiting", "waiting", "running", "done"]
    assert [run["position"] for run in runs] == [2, 1, None, None]
    assert runs[2]["owner_epoch"] == busy.manager.worker.epoch
    assert "secret" not in answer.out  # kwargs are not for lists


@pytest.mark.parametrize(
    ("options", "phases"),
    [
        (["--in-flight"], ["waiting", "waiting", "running"]),
        (["--status", "running"], ["running"]),
        (["--status", "running", "--status", "success"], ["running", "done"]),
        (["--thread", "t1", "--limit", "1"], ["waiting"]),
        (["--thread", "elsewhere"], []),
    ],
    ids=" ".join,
)
async def test_runs_list_filters(busy: Busy, options: list[str], phases: list[str]) -> None:
    answer = await busy.cli("runs", "list", "--json", *options)
    assert [run["phase"] for run in answer.document["runs"]] == phases


async def test_runs_list_as_text(busy: Busy, empty: str) -> None:
    answer = await busy.cli("runs", "list")
    assert answer.out.splitlines()[0].split()[:3] == ["RUN", "STATUS", "ASSISTANT"]
    assert len(answer.out.splitlines()) == 5
    assert "no such runs" in (await cli("runs", "list", "--store", empty)).out


async def test_runs_show(busy: Busy) -> None:
    run = (await busy.cli("runs", "show", busy.running.run_id, "--json")).document["run"]
    assert run["kwargs"] == {"secret": 1}
    assert set(run) > RUN_KEYS
    assert run["counters"]["total_tokens"] is None, "nothing was counted"
    await busy.manager.update_run_progress(busy.running.run_id, total_tokens=3)
    run = (await busy.cli("runs", "show", busy.running.run_id, "--json")).document["run"]
    assert (run["counters"]["total_tokens"], run["counters"]["llm_call_count"]) == (3, None)
    assert "running" in (await busy.cli("runs", "show", busy.running.run_id)).out


async def test_runs_show_cuts_long_inputs_and_errors_in_its_text(busy: Busy) -> None:
    run = await busy.manager.create_or_reject("t2", kwargs={"input": "x" * 2000})
    busy.manager.launch(run, failing)
    await busy.manager.ended(run.run_id, timeout=20)
    shown = await busy.cli("runs", "show", run.run_id)
    assert max(map(len, shown.out.splitlines())) < 2100
    assert "x" * 1000 not in shown.out
    document = (await busy.cli("runs", "show", run.run_id, "--json")).document["run"]
    assert document["kwargs"] == {"input": "x" * 2000}
    assert "e" * 5000 in document["error"]


async def failing(ctx: RunContext) -> None:
    raise ValueError("e" * 5000)


async def approval(ctx: RunContext) -> Outcome:
    command = ctx.request.command
    return Outcome(
        values=1, paused=command is None, interrupts=() if command else (Interrupt("may I?", "q"),)
    )


async def test_paused_run_is_shown_as_waiting_for_an_answer(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    env = {"COORDINATOR_STORE": url}

    async def texts(run_id: str) -> list[str]:
        explained, shown = await cli("explain", run_id, env=env), await cli("runs", "show", run_id, env=env)
        [line] = [line for line in shown.out.splitlines() if line.startswith("paused")]
        return [explained.out.splitlines()[0], line]

    async def waits(run_id: str) -> list[bool]:
        explained = await cli("explain", run_id, "--json", env=env)
        shown = await cli("runs", "show", run_id, "--json", env=env)
        return [explained.document["waits_for_answer"], shown.document["run"]["waits_for_answer"]]

    async with open_coordinator(url, assistants={"approval": approval}) as manager:
        question = await manager.create_or_reject("t", "approval")
        manager.launch(question)
        await manager.wait(question.run_id)
        for text in await texts(question.run_id):
            assert "waits for an answer" in text
        assert await waits(question.run_id) == [True, True]
        answer = await manager.create_or_reject("t", "approval", kwargs={"command": {"resume": True}})
        manager.launch(answer)
        await manager.wait(answer.run_id)
    for text in await texts(question.run_id):
        assert "paused" in text
        assert "waits for an answer" not in text
    assert await waits(question.run_id) == [False, False]
    assert await waits(answer.run_id) == [False, False]
