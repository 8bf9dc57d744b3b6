"""What rows keep of a user beside its id: `user_document`, with its permissions and attributes."""

from __future__ import annotations

from typing import Protocol

from coordinator.errors import InvalidArgument
from coordinator.schemas import User
from stores.json_values import JsonObject
from stores.sql.codec import dumps_opaque, is_json, loads

MAX_BYTES = 16_384


class HasUser(Protocol):
    """A run's spec, or a cron."""

    @property
    def user_id(self) -> str | None: ...
    @property
    def user_document(self) -> JsonObject | None: ...


def document_of(user: User | None) -> JsonObject | None:
    """Returns the document of the user, None if it has only an id. Attributes that JSON cannot hold are kept
    as their text. Raises InvalidArgument if it is larger than MAX_BYTES."""
    if user is None or not (user.permissions or user.attributes):
        return None
    document: JsonObject = {"permissions": [*user.permissions], "attributes": {**user.attributes}}
    text = dumps_opaque(document)
    if len(text) > MAX_BYTES:
        raise InvalidArgument(
            "user",
            f"has permissions and attributes of {len(text)} bytes, and a run keeps at most {MAX_BYTES}:"
            " its authentication must return less",
        )
    return document if is_json(document) else loads(text)


def user_of(owner: HasUser) -> User | None:
    """Returns the user, as `document_of` has written it; None in system scope."""
    if owner.user_id is None:
        return None
    if (document := owner.user_document) is None:
        return User(owner.user_id)
    return User(owner.user_id, tuple(document["permissions"]), document["attributes"])
