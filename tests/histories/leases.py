"""Leases that a worker lost although no fault struck it."""

from __future__ import annotations

from collections.abc import Iterable

from tests.histories.calls import EXCUSING
from tests.histories.lines import Line, in_order


def lost_without_a_fault(lines: Iterable[Line]) -> list[Line]:
    """Returns a fault `lost_lease` for each epoch that ended without a fault of its worker. A busy machine
    may hold a process up for longer than its lease; peers then end its runs, as they end those of a killed
    one. The fault is dated to the registration: peers act before the worker notices, at a time that no line
    shows. Its `wall` is that of the notice, from which bounds count.

    Only for histories of real time: a simulation decides itself when a worker is late."""
    lost: list[Line] = []
    registered, struck = dict[object, Line](), set[str]()
    for line in in_order(lines):
        if line.kind == "fault" and line.what in EXCUSING:
            struck.add(line.args.get("worker", "*"))
        elif (line.kind, line.what) == ("sample", "registered"):
            registered[line.args["epoch"]] = line
        elif (line.kind, line.what) == ("sample", "fenced") and struck.isdisjoint({"*", line.worker}):
            began = registered.get(line.args["epoch"], line)
            args = {"worker": line.worker, "epoch": line.args["epoch"]}
            lost.append(Line("fault", "lost_lease", line.worker, began.at, line.wall, args=args))
    return lost
