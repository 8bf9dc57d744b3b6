"""Histories of workers: recording them, and checking them against the properties of the protocol.

with Recorder("w1", folder / "w1.jsonl") as record:
    with record.call("admit", thread="t", strategy="reject") as call:
        run = await manager.create_or_reject("t")
        call.answer(run=run.run_id)

report = check(read(*folder.glob("*.jsonl")), await collect(store, ["t"]), bound=5.0)
report.raise_if_violated()
"""

from tests.histories.audit import Audit, collect
from tests.histories.check import check
from tests.histories.findings import Finding, Report
from tests.histories.lines import REFUSALS, Call, Line, Recorder, in_order, read

__all__ = [
    "REFUSALS",
    "Audit",
    "Call",
    "Finding",
    "Line",
    "Recorder",
    "Report",
    "check",
    "collect",
    "in_order",
    "read",
]
