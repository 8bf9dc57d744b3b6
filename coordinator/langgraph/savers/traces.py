"""What a run has written so far, as far as it shows which questions it has answered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.types import Interrupt

NULL_TASK = "00000000-0000-0000-0000-000000000000"
"""The task of writes that belong to no task, such as an answer that names no question."""
INTERRUPT = "__interrupt__"

Row = tuple[str, str, str | None, bytes | None]
"""`posed` with a task and its encoded questions, `wrote` with a task, or `within` with a namespace."""


class Traces(NamedTuple):
    """`posed`: the ids of the questions that were open, by task. `wrote`: tasks that have written since.
    `within`: the namespaces of subgraphs in which the run has written."""

    posed: dict[str, frozenset[str]]
    wrote: frozenset[str]
    within: frozenset[str]

    @classmethod
    def of(cls, rows: Iterable[Row], serde: SerializerProtocol) -> Traces:
        posed: dict[str, frozenset[str]] = {}
        others: dict[str, set[str]] = {"wrote": set(), "within": set()}
        for what, subject, kind, value in rows:
            if what == "posed":
                questions = cast("Iterable[Interrupt]", serde.loads_typed((kind or "", bytes(value or b""))))
                posed[subject] = frozenset(question.id for question in questions)
            else:
                others[what].add(subject)
        return cls(posed, frozenset(others["wrote"]), frozenset(others["within"]))

    @property
    def none(self) -> bool:
        return not self.wrote and not self.within

    @property
    def questions(self) -> frozenset[str]:
        return frozenset(question for task in self.posed for question in self.posed[task])

    def answered(self) -> frozenset[str]:
        """The ids of questions whose tasks have used their answers: they have written, or their subgraphs."""
        used = (task for task in self.posed if task in self.wrote or any(task in ns for ns in self.within))
        return frozenset(question for task in used for question in self.posed[task])
