"""The record operations that existing gateways call."""

from __future__ import annotations

from typing import Any

import pytest

from stores.base import CoordinationStore
from stores.states import RunStatus
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import SUCCESS, StoreClock, created, row_of, running, sql_of


class Records(StoreCase):
    async def test_put_and_get(self, store: CoordinationStore) -> None:
        await store.put(
            "r", thread_id="t", assistant_id="a", user_id="u", status="pending", multitask_strategy="enqueue",
            metadata={"m": [1, "ü"]}, kwargs={"k": None}, error=None, created_at=created(1), model_name="gpt",
        )  # fmt: skip
        record = await store.get("r")
        assert record is not None
        expected = {
            "run_id": "r", "thread_id": "t", "assistant_id": "a", "user_id": "u", "status": "pending",
            "multitask_strategy": "enqueue", "metadata": {"m": [1, "ü"]}, "kwargs": {"k": None},
            "error": None, "created_at": created(1), "model_name": "gpt", "total_tokens": 0,
        }  # fmt: skip
        assert {name: record[name] for name in expected} == expected

    async def test_put_is_an_upsert(self, store: CoordinationStore) -> None:
        await store.put("r", thread_id="t", metadata={"v": 1}, error="x", model_name="old")
        await store.put("r", thread_id="t", status="running", metadata={"v": 2}, created_at=created(5))
        record = await store.get("r")
        assert record is not None
        assert (record["status"], record["metadata"], record["error"], record["model_name"]) == (
            "running", {"v": 2}, None, None,
        )  # fmt: skip
        assert len(await store.list_by_thread("t")) == 1

    async def test_a_put_never_reopens_what_is_decided(self, store: CoordinationStore) -> None:
        await store.put("r", thread_id="t", status="error", error="first")
        for status in ("pending", "running", "success"):
            await store.put("r", thread_id="t", status=status, error="later")
        record = await store.get("r")
        assert record is not None
        assert (record["status"], record["error"]) == ("error", "first")

    async def test_a_status_of_none_is_pending(self, store: CoordinationStore) -> None:
        await store.put("r", thread_id="t", status=None)
        assert (await row_of(store, "r")).status is RunStatus.pending

    async def test_put_is_for_imports_several_users_and_several_runs_in_flight(
        self, store: CoordinationStore
    ) -> None:
        for user in ("a", "b"):
            await store.put(user, thread_id="t", user_id=user, status="running")
        assert {row["run_id"] for row in await store.list_by_thread("t")} == {"a", "b"}
        assert [row["run_id"] for row in await store.list_by_thread("t", user_id="b")] == ["b"]
        assert await store.get("a", user_id="b") is None
        assert await store.get("a", user_id="a") is not None

    async def test_kwargs_are_opaque(self, store: CoordinationStore) -> None:
        """A value that JSON cannot represent is kept as its str(), under its key."""
        deep: list[Any] = []
        for _ in range(10_000):
            deep = [deep]
        around: dict[str, Any] = {}
        around["self"] = around
        kwargs = {
            "o": {1},
            "nan": float("nan"),
            "nested": {"x": 1 + 2j},
            "around": around,
            "ok": [1],
            ("t",): 2,
        }
        await store.put("r", thread_id="t", kwargs=kwargs)
        record = await store.get("r")
        assert record is not None
        stored = record["kwargs"]
        assert (stored["o"], stored["nan"], stored["nested"], stored["ok"], stored["('t',)"]) == (
            "{1}", "nan", {"x": "(1+2j)"}, [1], 2,
        )  # fmt: skip
        assert stored["around"] == str(around)
        await store.put("deep", thread_id="t", kwargs={"deep": deep, "ok": 1})
        record = await store.get("deep")
        assert record is not None
        assert record["kwargs"]["ok"] == 1

    @pytest.mark.parametrize("value", [object(), float("inf"), {1}], ids=["object", "inf", "set"])
    async def test_metadata_must_be_json(self, store: CoordinationStore, value: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            await store.put("r", thread_id="t", metadata={"x": value})
        assert await store.get("r") is None
        await store.put("after", thread_id="t")

    async def test_metadata_that_is_too_deep_is_refused(self, store: CoordinationStore) -> None:
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(ValueError, match="too deep"):
            await store.put("r", thread_id="t", metadata={"x": deep})
        await store.put("after", thread_id="t")

    async def test_number_too_large_does_not_affect_later_calls(self, store: CoordinationStore) -> None:
        await store.put("r", thread_id="t", status="running")
        with pytest.raises(OverflowError):
            await store.update_run_progress("r", total_tokens=10**20)
        assert await store.update_run_progress("r", total_tokens=1) is True

    async def test_times_are_iso_with_t_and_offset(self, store: CoordinationStore, me: int) -> None:
        await store.put("naive", thread_id="t", created_at="2026-01-02 03:04:05")
        await store.put("none", thread_id="t", created_at=None)
        own = await running(store, me, "u")
        await store.finish(own, SUCCESS)
        for run_id in ("naive", "none", own.run_id):
            record = await store.get(run_id)
            assert record is not None
            for name, value in record.items():
                if name.endswith("_at") and value is not None:
                    assert "T" in value, name
                    assert value.endswith("+00:00"), name
        record = await store.get("naive")
        assert record is not None
        assert record["created_at"] == "2026-01-02T03:04:05.000000+00:00"

    @pytest.mark.parametrize("status", ["success", "error", "interrupted"])
    async def test_repeated_terminal_status_does_not_move_the_end_of_the_run(
        self, store: CoordinationStore, clock: StoreClock, status: str
    ) -> None:
        await store.put("r", thread_id="t", status="running")
        assert await store.update_status("r", status) is True
        ended = (await row_of(store, "r")).ended_at
        assert ended == clock.micros
        clock.advance(5)
        assert await store.update_status("r", status) is True
        row = await row_of(store, "r")
        assert (row.ended_at, row.settled_at) == (ended, ended)

    async def test_newer_error_text_of_an_open_run_replaces_the_older_one(
        self, store: CoordinationStore
    ) -> None:
        await store.put("r", thread_id="t", status="running", error="first")
        await store.update_status("r", "running")
        assert (await row_of(store, "r")).error == "first", "no error was given: the old one stays"
        await store.update_status("r", "running", error="second")
        assert (await row_of(store, "r")).error == "second"
        await store.update_status("r", "error", error="third")
        assert (await row_of(store, "r")).error == "third"

    async def test_inflight_and_pending_are_oldest_first(self, store: CoordinationStore) -> None:
        rows = {"b": ("pending", 2), "a": ("running", 1), "c": ("pending", 3), "done": ("success", 0)}
        for run_id, (status, step) in rows.items():
            await store.put(run_id, thread_id=run_id, status=status, created_at=created(step))
        assert ids(await store.list_inflight()) == ["a", "b", "c"]
        assert ids(await store.list_pending()) == ["b", "c"]  # type: ignore[attr-defined]  # optional, of the engines that this suite is for

    async def test_before_compares_instants_and_naive_means_utc(self, store: CoordinationStore) -> None:
        await store.put("a", thread_id="t", created_at="2026-01-01T12:00:00+02:00")  # 10:00 UTC
        await store.put("b", thread_id="t", created_at="2026-01-01T11:00:00")
        await store.put("odd", thread_id="t", created_at="not a time")
        for limit in ("2026-01-01T10:30:00", "2026-01-01T10:30:00Z", "2026-01-01T11:30:00+01:00"):
            assert ids(await store.list_inflight(before=limit)) == ["a"]
            assert ids(await store.list_pending(before=limit)) == ["a"]  # type: ignore[attr-defined]  # optional, of the engines that this suite is for
        assert set(ids(await store.list_inflight())) == {"a", "b", "odd"}
        with pytest.raises(ValueError, match="ISO 8601"):
            await store.list_inflight(before="garbage")

    async def test_a_damaged_row_does_not_hide_the_others(self, store: CoordinationStore) -> None:
        for run_id in ("good", "bad"):
            await store.put(run_id, thread_id="t", status="running")
        sql_of(store)("UPDATE runs SET metadata = '{oops' WHERE run_id = 'bad'")
        assert ids(await store.list_inflight()) == ["good"]
        assert ids(await store.list_by_thread("t")) == ["good"]

    async def test_operations_are_no_runs(self, store: CoordinationStore, me: int) -> None:
        await running(store, me, kind="op")
        assert await store.list_by_thread("t") == []
        assert await store.list_inflight() == []
        assert await store.runs() == []

    async def test_tokens_of_a_thread(self, store: CoordinationStore) -> None:
        runs = {
            "a": ("success", "m1"),
            "b": ("error", None),
            "c": ("running", "m1"),
            "d": ("interrupted", "m2"),
        }
        for run_id, (status, model) in runs.items():
            await store.put(run_id, thread_id="t", status="running", model_name=model)
            await store.update_run_progress(
                run_id, total_tokens=10, total_input_tokens=6, total_output_tokens=4,
                lead_agent_tokens=5, subagent_tokens=3, middleware_tokens=2,
            )  # fmt: skip
            await store.update_status(run_id, status)
        aggregate = store.aggregate_tokens_by_thread  # type: ignore[attr-defined]  # optional, of the engines that this suite is for
        assert await aggregate("t") == {
            "total_tokens": 20, "total_input_tokens": 12, "total_output_tokens": 8, "total_runs": 2,
            "by_model": {"m1": {"tokens": 10, "runs": 1}, "unknown": {"tokens": 10, "runs": 1}},
            "by_caller": {"lead_agent": 10, "subagent": 6, "middleware": 4},
        }  # fmt: skip
        assert (await aggregate("t", include_active=True))["by_model"]["m1"] == {"tokens": 20, "runs": 2}
        assert (await aggregate("empty"))["total_runs"] == 0


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["run_id"] for row in rows]
