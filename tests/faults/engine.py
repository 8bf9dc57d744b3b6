"""What the store of a leg stands on, as the suite sees it: started, asked behind the workers' backs, kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from stores.base import CoordinationStore
from tests.support.proxy import Proxy


class Link(NamedTuple):
    """A worker's way to its store: what its settings say, and the network between the two if there is one."""

    settings: dict[str, Any]
    proxy: Proxy | None


class Engine(ABC):
    proves_death: ClassVar[bool]
    """Whether the operating system vouches for a dead worker of the same host: no lease has to end."""

    @abstractmethod
    def link(self) -> AbstractAsyncContextManager[Link]: ...

    @abstractmethod
    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """`?` for parameters, names without a schema. Waits for a store that is away."""

    @abstractmethod
    def store(self) -> CoordinationStore:
        """One more, not open yet."""

    @abstractmethod
    async def complaints(self) -> list[str]:
        """What is wrong with the data's form, when all is over."""

    @abstractmethod
    async def keep(self, folder: Path) -> None:
        """Copy there what somebody would look at who has a violation to explain."""
