"""`coordinator runs list` and `runs show`."""

from __future__ import annotations

import pytest

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
