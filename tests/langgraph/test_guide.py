"""The functions of docs/guides/from-langgraph-server.md, between two gateways that share nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.langgraph import graphs
from tests.langgraph.lab import assistants
from tests.support.gateways import gateways
from tests.unit.test_readme import ROOT, run_examples

END = datetime(2100, 1, 1, tzinfo=UTC)
GUIDE = ROOT / "docs" / "guides" / "from-langgraph-server.md"


async def test_threads_and_crons_are_copied(tmp_path: Path, namespace: str) -> None:
    guide = await run_examples(GUIDE, "")
    made = {"chain": graphs.chain("a", "b"), "asking": graphs.asking("one")}
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    async with (
        gateways(
            1, tmp_path / "old", None, f"{namespace}a", agents=lambda: assistants(tmp_path / "old", made)
        ) as (a,),
        gateways(
            1, tmp_path / "new", None, f"{namespace}b", agents=lambda: assistants(tmp_path / "new", made)
        ) as (b,),
    ):
        old, new = a.sdk, b.sdk
        ended, paused = [(await old.threads.create(metadata={"m": 1}))["thread_id"] for _ in range(2)]
        await old.runs.wait(ended, "chain", input={"log": []})
        await old.runs.wait(paused, "asking", input={"log": []})
        for _ in range(2):
            assert await guide["copy_threads"](old, new, {"chain": "b", "asking": "note"}) == [paused]
            state = await new.threads.get_state(ended)
            assert (state["values"], state["next"]) == ({"log": ["a", "b"]}, [])
        copied = await new.threads.get(ended)
        assert (copied["metadata"]["m"], copied["metadata"]["graph_id"]) == (1, "chain")
        more: Any = await new.runs.wait(ended, "chain", input={"log": []})
        assert more == {"log": ["a", "b", "a", "b"]}

        config: Any = {"configurable": {"k": 1}, "tags": ["t"]}
        await old.crons.create(
            "chain",
            schedule="0 0 1 1 *",
            input={"log": []},
            metadata={"c": 1},
            config=config,
            timezone="Europe/Paris",
            end_time=END,
            on_run_completed="keep",
            multitask_strategy="reject",
        )
        for thread in (ended, paused):
            await old.crons.create_for_thread(thread, "chain", schedule="0 0 1 2 *", metadata={"of": thread})
        [left] = [cron["cron_id"] for cron in await old.crons.search(metadata={"of": paused})]
        assert await guide["copy_crons"](old, new) == [left]
        (cron,) = await new.crons.search(metadata={"c": 1})
        assert (cron["enabled"], cron["schedule"], cron["timezone"]) == (False, "0 0 1 1 *", "Europe/Paris")
        assert (cron["metadata"], cron["on_run_completed"]) == ({"c": 1}, "keep")
        assert datetime.fromisoformat(cron["end_time"]) == END
        assert cron["payload"]["input"] == {"log": []}
        assert cron["payload"]["config"] == config
        assert cron["payload"]["multitask_strategy"] == "reject"
        (cron,) = await new.crons.search(thread_id=ended)
        assert (cron["enabled"], cron["schedule"], cron["timezone"]) == (False, "0 0 1 2 *", None)
        assert cron["metadata"] == {"of": ended}

        assert await guide["differing_keys"](old, new, "chain", {"log": []}) == set()
        assert await guide["differing_keys"](old, new, "asking", {"log": []}) == set()
