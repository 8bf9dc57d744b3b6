"""The interface of a fault."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from tests.faults.stage import Stage


class Fault(ABC):
    """`name` as in the report; `expects` is what must hold, in words; `lasts` (s) is for the ETA."""

    name: str
    expects: ClassVar[str]
    lasts: float = 1.0

    @abstractmethod
    async def strike(self, stage: Stage) -> None: ...
