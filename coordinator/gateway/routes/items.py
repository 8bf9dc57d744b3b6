"""The store of graphs: items that all threads share. Every caller of a user is restricted to the namespaces
that have the user's id as a label."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from fastapi import HTTPException, Query
from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response

from coordinator.errors import InvalidArgument
from coordinator.gateway.caller import Caller, CallerIn, Role
from coordinator.gateway.routes import router_of
from coordinator.gateway.routes.parameters import READER, acting
from coordinator.gateway.services import Services, ServicesIn
from coordinator.gateway.wire.documents import Problem
from coordinator.gateway.wire.items import (
    FoundItems,
    Item,
    ItemDelete,
    ItemPut,
    ItemSearch,
    Key,
    NamespaceOfItem,
    Namespaces,
    NamespaceSearch,
)
from coordinator.gateway.wire.json import TolerantJsonResponse, encoded
from coordinator.langgraph.items import Items, NoItems, items_of
from stores.json_values import JsonObject

router = router_of("store")
router.responses = {
    **router.responses,
    501: {"model": Problem, "description": "No assistant of this server has a store"},
}

_NAMESPACE = TypeAdapter[list[str]](NamespaceOfItem)
RefreshIn = Annotated[bool | None, Query(description="Whether the time to live of the item begins anew")]


@router.put("/store/items", dependencies=acting(), status_code=204)
async def put_item(services: ServicesIn, caller: CallerIn, body: ItemPut) -> None:
    """Write an item, in place of one with the same key."""
    items = _items(services)
    _check_scope(caller, body.namespace)
    await items.put(tuple(body.namespace), body.key, body.value, index=body.index, ttl=body.ttl)


@router.get("/store/items", dependencies=READER, response_model=Item | None)
async def get_item(
    services: ServicesIn,
    caller: CallerIn,
    key: Annotated[Key, Query()],
    namespace: Annotated[
        list[str], Query(max_length=64, description="Labels, repeated or with periods between")
    ],
    refresh_ttl: RefreshIn = None,
) -> Response:
    """Returns an item; null if there is none."""
    items, labels = _items(services), _labels(namespace)
    _check_scope(caller, labels)
    item = await items.get(tuple(labels), key, refresh_ttl=refresh_ttl)
    return TolerantJsonResponse(item)


@router.delete("/store/items", dependencies=acting(), status_code=204)
async def delete_item(services: ServicesIn, caller: CallerIn, body: ItemDelete) -> None:
    """Remove an item, if it exists."""
    items = _items(services)
    _check_scope(caller, body.namespace)
    await items.delete(tuple(body.namespace), body.key)


@router.post("/store/items/search", dependencies=READER, response_model=FoundItems)
async def search_items(services: ServicesIn, caller: CallerIn, body: ItemSearch) -> Response:
    """Search the items below a namespace. `X-Pagination-Next` is the offset of the next page, if this one was
    cut because of its size."""
    items = _items(services)
    _check_scope(caller, body.namespace_prefix)
    listed = await items.search(
        tuple(body.namespace_prefix),
        query=body.query,
        conditions=body.filter,
        limit=body.limit,
        offset=body.offset,
        refresh_ttl=body.refresh_ttl,
    )
    page = _bounded(listed, services.settings.max_page_bytes)
    headers = {"X-Pagination-Next": str(body.offset + len(page))} if len(page) < len(listed) else None
    return TolerantJsonResponse({"items": page}, headers=headers)


@router.post("/store/namespaces", dependencies=READER)
async def list_namespaces(services: ServicesIn, caller: CallerIn, body: NamespaceSearch) -> Namespaces:
    """Returns the namespaces that have items; to a user only those with its id."""
    items, user_id = _items(services), _scope(caller)
    prefix = None if body.prefix is None else tuple(body.prefix)
    suffix = None if body.suffix is None else tuple(body.suffix)
    if user_id is None or user_id in (*(prefix or ()), *(suffix or ())):
        listed = await items.namespaces(
            prefix=prefix, suffix=suffix, max_depth=body.max_depth, limit=body.limit, offset=body.offset
        )
        return Namespaces(namespaces=list(map(list, listed)))
    listed = await items.namespaces_with(user_id, prefix=prefix, suffix=suffix, max_depth=body.max_depth)
    if not listed.complete:
        raise InvalidArgument("prefix", f"the store has too many namespaces: give one with {user_id!r}")
    page = listed.namespaces[body.offset : body.offset + body.limit]
    return Namespaces(namespaces=list(map(list, page)))


def _items(services: Services) -> Items:
    """Raises HTTPException (501)."""
    try:
        return items_of(services.manager.assistants.kinds)
    except NoItems as error:
        raise HTTPException(501, str(error)) from None


def _scope(caller: Caller) -> str | None:
    """Returns the label that namespaces of the caller have; None = any."""
    return None if caller.role >= Role.admin else caller.user_id


def _check_scope(caller: Caller, namespace: Collection[str]) -> None:
    """Raises HTTPException (403)."""
    user_id = _scope(caller)
    if user_id is not None and user_id not in namespace:
        raise HTTPException(403, f"namespace: one label must be your user id, {user_id!r}")


def _labels(namespace: list[str]) -> list[str]:
    """Raises InvalidArgument."""
    try:
        return _NAMESPACE.validate_python(".".join(namespace).split("."))
    except ValidationError as error:
        raise InvalidArgument("namespace", error.errors(include_url=False)[0]["msg"]) from None


def _bounded(listed: list[JsonObject], most: int) -> list[JsonObject]:
    """Returns the items with `most` bytes in total, but at least one."""
    size, page = 0, list[JsonObject]()
    for item in listed:
        size += len(encoded(item["value"]))
        if page and size > most:
            break
        page.append(item)
    return page
