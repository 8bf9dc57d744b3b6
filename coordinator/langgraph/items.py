"""The store of graphs for callers outside of a graph, with the exceptions of this project.

Imports nothing of LangGraph: a gateway without the extra imports it as well.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, NamedTuple

from coordinator.assistants.ports import ThreadStates
from coordinator.errors import InvalidArgument, StoreUnavailable
from stores.json_values import JsonObject

if TYPE_CHECKING:
    from langgraph.store.base import BaseStore, Item

Namespace = tuple[str, ...]

_UNREACHABLE = frozenset({"OperationalError", "PoolTimeout", "InterfaceError"})
"""Names of the drivers' exceptions, which are not imported here."""
_MAX_SCANNED = 10_000


class NoItems(Exception):
    """There is no store of graphs. The message names what is missing."""


class Listed(NamedTuple):
    namespaces: list[Namespace]
    complete: bool
    """Whether all namespaces were examined."""


def items_of(kinds: Iterable[ThreadStates]) -> Items:
    """Returns the open store of the graphs with these storages, the first one if there are several. Raises
    NoItems."""
    if find_spec("langgraph") is None:
        raise NoItems(
            "the store is that of graphs, and needs the extra: pip install 'run-coordinator[langgraph]'"
        )
    opened = (getattr(states, "store", None) for states in kinds)
    store = next((store for store in opened if store is not None), None)
    if store is None:
        raise NoItems("no assistant of this server has a store: serve graphs, with a langgraph.json")
    return Items(store)


class Items:
    """Each call is an operation of its own: calls of graphs are batched, and one that is refused would fail
    the calls beside it. Raises InvalidArgument, StoreUnavailable."""

    def __init__(self, store: BaseStore) -> None:
        self._store = store

    async def put(
        self,
        namespace: Namespace,
        key: str,
        value: JsonObject,
        *,
        index: Literal[False] | list[str] | None = None,
        ttl: float | None = None,
    ) -> None:
        """`ttl` (minutes): None = the default of the store."""
        from langgraph.store.base import PutOp  # noqa: PLC0415 - the extra may be missing

        # Not `aput`: it reports that the stores of SQLite have no time to live.
        lasts = (self._store.ttl_config or {}).get("default_ttl") if ttl is None else ttl
        async with _translated():
            await self._store.abatch([PutOp(namespace, key, value, index=index, ttl=lasts)])

    async def get(self, namespace: Namespace, key: str, *, refresh_ttl: bool | None) -> JsonObject | None:
        from langgraph.store.base import BaseStore  # noqa: PLC0415

        async with _translated():
            item = await BaseStore.aget(self._store, namespace, key, refresh_ttl=refresh_ttl)
        return None if item is None else _document(item)

    async def delete(self, namespace: Namespace, key: str) -> None:
        from langgraph.store.base import BaseStore  # noqa: PLC0415

        async with _translated():
            await BaseStore.adelete(self._store, namespace, key)

    async def search(
        self,
        prefix: Namespace,
        *,
        query: str | None,
        conditions: JsonObject | None,
        limit: int,
        offset: int,
        refresh_ttl: bool | None,
    ) -> list[JsonObject]:
        """`query`: semantic search, where the store has an index."""
        from langgraph.store.base import BaseStore  # noqa: PLC0415

        async with _translated():
            listed = await BaseStore.asearch(
                self._store,
                prefix,
                query=query,
                filter=conditions,
                limit=limit,
                offset=offset,
                refresh_ttl=refresh_ttl,
            )
        return [{**_document(item), "score": item.score} for item in listed]

    async def namespaces(
        self,
        *,
        prefix: Namespace | None,
        suffix: Namespace | None,
        max_depth: int | None,
        limit: int,
        offset: int,
    ) -> list[Namespace]:
        from langgraph.store.base import BaseStore  # noqa: PLC0415

        async with _translated():
            return await BaseStore.alist_namespaces(
                self._store, prefix=prefix, suffix=suffix, max_depth=max_depth, limit=limit, offset=offset
            )

    async def namespaces_with(
        self, label: str, *, prefix: Namespace | None, suffix: Namespace | None, max_depth: int | None
    ) -> Listed:
        """Returns the namespaces that have this label, at any depth, of at most 10,000."""
        every = await self.namespaces(
            prefix=prefix, suffix=suffix, max_depth=None, limit=_MAX_SCANNED + 1, offset=0
        )
        matching = dict.fromkeys(one[:max_depth] for one in every[:_MAX_SCANNED] if label in one)
        return Listed(list(matching), len(every) <= _MAX_SCANNED)


def _document(item: Item) -> JsonObject:
    return {
        "namespace": list(item.namespace),
        "key": item.key,
        "value": item.value,
        "created_at": _iso(item.created_at),
        "updated_at": _iso(item.updated_at),
    }


def _iso(moment: datetime) -> str:
    """In UTC, with the offset. Stores on SQLite return times in UTC without one."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat()


@asynccontextmanager
async def _translated() -> AsyncGenerator[None]:
    try:
        yield
    except (InvalidArgument, StoreUnavailable):
        raise
    except (ValueError, TypeError, NotImplementedError) as error:
        raise InvalidArgument("store", " ".join(str(error).split())) from error
    except Exception as error:
        if any(kind.__name__ == "DataError" for kind in type(error).__mro__):
            raise InvalidArgument("store", " ".join(str(error).split())) from error
        if _UNREACHABLE.isdisjoint(kind.__name__ for kind in type(error).__mro__):
            raise
        raise StoreUnavailable(f"the store of graphs is not available: {error}") from error
