"""The functions of docs/guides/from-langgraph-server.md, between two gateways that share nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.langgraph import graphs
from tests.langgraph.lab import assistants
from tests.support.gateways import gateways
from tests.unit.test_readme import ROOT, run_examples

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

        await old.crons.create("chain", schedule="0 0 1 1 *", input={"log": []}, metadata={"c": 1})
        assert await guide["copy_crons"](old, new) == 1
        (cron,) = await new.crons.search()
        assert (cron["enabled"], cron["schedule"], cron["metadata"]) == (False, "0 0 1 1 *", {"c": 1})
        assert cron["payload"]["input"] == {"log": []}

        assert await guide["differing_keys"](old, new, "chain", {"log": []}) == set()
