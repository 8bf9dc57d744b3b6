"""The engine of a leg's store: the suite starts it, queries it past the workers, and keeps its data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from stores.base import CoordinationStore
from tests.support.proxy import Proxy


class Link(NamedTuple):
    """A worker's connection to its store: the settings for it, and the proxy in between if there is one."""

    settings: dict[str, Any]
    proxy: Proxy | None


class Engine(ABC):
    proves_death: ClassVar[bool]
    """Whether the operating system proves the death of a worker of the same host: no lease has to expire."""

    @abstractmethod
    def link(self) -> AbstractAsyncContextManager[Link]: ...

    @abstractmethod
    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Parameters are `?`, names have no schema. Waits while the store is unavailable."""

    @abstractmethod
    def store(self) -> CoordinationStore:
        """Returns one more store on the engine, not open yet."""

    @abstractmethod
    async def complaints(self) -> list[str]:
        """Returns damage of the data, at the end of a leg."""

    @abstractmethod
    async def keep(self, folder: Path) -> None:
        """Copies to `folder` the data that explain a violation."""
