"""All checks of one history."""

from __future__ import annotations

from collections.abc import Iterable

from tests.histories.audit import Audit
from tests.histories.audited import of_audit, settled_in_time
from tests.histories.calls import of_threads
from tests.histories.findings import Finding, Report
from tests.histories.linearizability import check_thread
from tests.histories.lines import Line, in_order
from tests.histories.observed import of_history


def check(
    lines: Iterable[Line], audit: Audit | None = None, *, bound: float = 10.0, budget: float = 5.0
) -> Report:
    """Check all properties of a history. Each violation is a finding of the report.

    `bound` (s): every run is settled within this time of the last fault. `budget` (s of processor time):
    limit of the search of one thread; a thread that is not decided within it is a finding.
    """
    history = in_order(lines)
    findings: list[Finding] = list(of_history(history, audit))
    known: list[tuple[str, str]] = []
    if audit is not None:
        findings += of_audit(audit)
        last_fault = max((line.wall for line in history if line.kind == "fault"), default=None)
        findings += settled_in_time(audit, last_fault, bound)
        known = [(row.run_id, row.thread_id) for row in audit.runs]
    threads = of_threads(history, known)
    for thread, ops in sorted(threads.items()):
        findings += check_thread(thread, ops, budget=budget)
    return Report(
        tuple(findings),
        {
            "lines": len(history),
            "calls": sum(line.kind == "call" for line in history),
            "steps": sum(line.kind == "step" for line in history),
            "faults": sum(line.kind == "fault" for line in history),
            "threads": len(threads),
            "transitions": len(audit.transitions) if audit else 0,
        },
    )
