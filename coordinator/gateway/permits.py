"""One request whose permission is decided by the user's functions: its parts, and what decides about them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias, cast
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response

from coordinator.errors import RunNotFound, ThreadNotFound
from coordinator.gateway.identification import http_error
from coordinator.gateway.services import Services
from coordinator.langgraph.access import Filter, Handlers, Identity, Refused
from stores.json_values import Json, JsonObject

logger = logging.getLogger(__name__)

_UNCHANGEABLE = "the request could not be authorised: see the log of this worker"


class GuardedRequest:
    """`body`: parsed, None if the request has none. What a rule changes in it is what the endpoint gets.

    All reads are limited to the user's own resources; filters limit them further.
    """

    def __init__(
        self,
        handlers: Handlers,
        identity: Identity,
        request: HTTPConnection,
        path: Mapping[str, object],
        body: Json,
    ) -> None:
        self._handlers, self._identity = handlers, identity
        self.services = cast("Services", request.app.state.services)
        self.query, self._scope = request.query_params, request.scope
        self._path, self.body = path, body

    @property
    def user_id(self) -> str:
        return self._identity.user_id

    def path(self, name: str) -> str:
        return str(self._path[name])

    def path_id(self, name: str) -> UUID:
        return uuid_of(name, self._path[name])

    def has_path(self, name: str) -> bool:
        return name in self._path

    @property
    def fields(self) -> JsonObject:
        """The body, which must be an object. Raises HTTPException."""
        return object_in(self.body)

    def replace_query(self, query: str) -> None:
        """What the endpoint gets."""
        self._scope["query_string"] = query.encode("ascii")

    async def permit(
        self, resource: str, action: str, value: JsonObject, changeable: frozenset[str] = frozenset()
    ) -> Filter:
        """Returns the filter of the function. It may change the keys `changeable` of `value`; `metadata` is
        ignored where it has no meaning. Raises HTTPException, also for a change without effect: the function
        would rely on it."""
        before = dict(value)
        try:
            decided = await self._handlers.permit(self._identity, resource, action, value)
        except Refused as refused:
            raise http_error(refused) from refused
        ignored = {*changeable, "metadata"}
        changed = [
            key
            for key in {*before, *value} - ignored
            if (key in before) != (key in value) or before[key] != value[key]
        ]
        if changed:
            logger.error(
                "The function for %s.%s has changed %s, which has no effect here, so the request was refused",
                resource,
                action,
                ", ".join(sorted(changed)),
            )
            raise HTTPException(500, _UNCHANGEABLE)
        return decided

    # -- what filters apply to

    async def check_thread(self, thread_id: UUID, filter: Filter, *, may_be_new: bool = False) -> None:  # noqa: A002 - its name in the API
        """Raises ThreadNotFound if the thread does not match, or does not exist unless it `may_be_new`."""
        if not filter:
            return
        if (metadata := await self.metadata_of(thread_id)) is None:
            if may_be_new:
                return
        elif filter.matches(metadata):
            return
        raise ThreadNotFound(str(thread_id))

    async def metadata_of(self, thread_id: UUID) -> Mapping[str, Json] | None:
        """Returns None if the user has no such thread."""
        try:
            row = await self.services.manager.threads.get(
                str(thread_id), with_values=False, user_id=self.user_id
            )
        except ThreadNotFound:
            return None
        return row.metadata

    async def thread_of_run(self, run_id: UUID) -> UUID:
        """Raises RunNotFound."""
        row = await self.services.manager.runs.get(str(run_id), user_id=self.user_id)
        return UUID(row.thread_id)

    async def check_run(self, run_id: UUID, thread_id: UUID, filter: Filter) -> None:  # noqa: A002 - its name in the API
        """Raises RunNotFound if the thread of the run does not match."""
        if filter and not filter.matches(await self.metadata_of(thread_id) or {}):
            raise RunNotFound(str(run_id))

    def narrow(self, filter: Filter) -> bool:  # noqa: A002 - its name in the API
        """Adds the filter to the metadata by which the body searches. Returns False if nothing can match."""
        fields = self.fields
        narrowed = filter.narrowed(object_in(fields.get("metadata") or {}))
        if narrowed is None:
            return False
        fields["metadata"] = narrowed
        return True


Answer = Response | None
"""The response of a rule, None = that of the endpoint."""
Rule: TypeAlias = Callable[[GuardedRequest], Awaitable[Answer]]


def uuid_of(name: str, text: object) -> UUID:
    """Raises HTTPException (422)."""
    try:
        return UUID(str(text))
    except ValueError:
        raise HTTPException(422, f"{name} must be a UUID") from None


def optional_uuid(name: str, text: object) -> UUID | None:
    return None if text is None else uuid_of(name, text)


def object_in(content: Json) -> JsonObject:
    """Raises HTTPException (422)."""
    if not isinstance(content, dict):
        raise HTTPException(422, "the body must be a JSON object")
    return cast("JsonObject", content)
