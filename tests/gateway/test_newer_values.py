"""Runs over HTTP that a worker of a newer version has written."""

from __future__ import annotations

from tests.support.builders import sql_of
from tests.support.gateways import one_gateway


async def test_runs_show_unknown_values_unchanged() -> None:
    async with one_gateway() as one:
        run = await one.sdk.runs.create(None, "echo", input={})
        await one.manager.wait(run["run_id"], timeout=20)
        sql = sql_of(one.manager.store)
        sql("PRAGMA ignore_check_constraints = ON")
        sql("DROP TRIGGER runs_status_is_final")
        sql(
            "UPDATE runs SET status = 'suspended', multitask_strategy = 'merge', cancel_action = 'suspend',"
            " cancel_cause = 'quota' WHERE run_id = ?",
            run["run_id"],
        )
        thread = run["thread_id"]
        (listed,) = (await one.raw.get(f"/threads/{thread}/runs")).json()
        assert (listed["status"], listed["multitask_strategy"]) == ("suspended", "merge")
        assert listed["cancel_reason"] == "quota"
        shown = await one.raw.get(f"/threads/{thread}/runs/{run['run_id']}")
        assert (shown.status_code, shown.json()["status"]) == (200, "suspended")
