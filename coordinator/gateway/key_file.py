"""The file of API keys: the user and the role of each. It contains hashes, never a key."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from coordinator.arguments import check_id
from coordinator.errors import InvalidArgument
from coordinator.gateway import trusted_files
from coordinator.gateway.caller import Role
from coordinator.gateway.trusted_files import UntrustedFile

PREFIX = "rck"
"""Prefix of every key, so that scanners of sources and logs detect a leaked one."""

_SECRET_BYTES = 32


class KeyFileError(InvalidArgument):
    """The key file cannot be read or written, is invalid, or is writable by other users."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__("api_keys", f"{str(path)!r} {problem}")


class KeyFileUnreadable(KeyFileError):
    """This process cannot read the key file, or another user may have written it."""


class Key(BaseModel):
    """One API key. `user_id` None = the threads of all users."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    role: Literal["reader", "user", "admin"]
    user_id: str | None
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    name: Annotated[str, Field(max_length=200)] = ""
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _role_fits_scope(self) -> Self:
        if self.user_id is not None:
            check_id("user_id", self.user_id)
        if self.role == "user" and self.user_id is None:
            raise ValueError("a key with the role user is for one user")
        if self.role == "admin" and self.user_id is not None:
            raise ValueError("a key with the role admin is for the threads of all users")
        return self

    def expired(self, now: datetime) -> bool:
        return self.expires_at is not None and now >= self.expires_at


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    keys: list[Key] = []


def hash_of(text: str) -> str:
    """Returns the SHA-256 of a key. One round suffices, because a key has 256 random bits."""
    return hashlib.sha256(text.encode()).hexdigest()


def id_in(text: str) -> str | None:
    """Returns the public id within a key, or None if `text` does not have the form of a key."""
    prefix, _, rest = text.partition("_")
    key_id, _, secret = rest.partition("_")
    return key_id if prefix == PREFIX and key_id and secret else None


def read(path: Path) -> dict[str, Key]:
    """Returns the keys by id. Raises KeyFileUnreadable if the file cannot be read or trusted, KeyFileError if
    it is invalid."""
    try:
        raw = trusted_files.read(path)
    except UntrustedFile as error:
        raise KeyFileUnreadable(path, str(error)) from None
    except OSError as error:
        raise KeyFileUnreadable(path, f"cannot be read: {error.strerror}") from None
    try:
        keys = _Document.model_validate_json(raw).keys
    except ValidationError as error:
        # The message leaves the input out: a key that was pasted into the wrong field must not reach a log.
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        location = ".".join(str(part) for part in first["loc"])
        raise KeyFileError(path, f"is not a valid file of API keys: {location}: {first['msg']}") from None
    by_id = {key.id: key for key in keys}
    if len(by_id) != len(keys):
        raise KeyFileError(path, "has two keys with one id")
    return by_id


def create(
    path: Path, *, role: Role, user_id: str | None, name: str = "", expires_at: datetime | None = None
) -> tuple[Key, str]:
    """Adds a key and creates the file if it does not exist. Returns the key and its text, which is stored
    nowhere. Atomic, also with concurrent writers. Raises KeyFileError, InvalidArgument."""
    key_id = secrets.token_hex(6)
    text = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    try:
        key = Key(
            id=key_id,
            role=role.name,
            user_id=user_id,
            hash=hash_of(text),
            name=name,
            created_at=datetime.now(UTC).replace(microsecond=0),
            expires_at=expires_at,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise InvalidArgument(
            str(first["loc"][0]) if first["loc"] else "role", first["msg"].removeprefix("Value error, ")
        ) from None
    if not _exists(path):
        _check_place(path)
    with _exclusive(path):
        keys = read(path) if _exists(path) else {}
        _write(path, [*keys.values(), key])
    return key, text


def revoke(path: Path, key_id: str) -> Key | None:
    """Removes a key and returns it, or None if no key has this id. Raises KeyFileError."""
    if not _exists(path):
        raise KeyFileError(path, "does not exist")
    with _exclusive(path):
        keys = read(path)
        revoked = keys.pop(key_id, None)
        if revoked is not None:
            _write(path, list(keys.values()))
    return revoked


def _exists(path: Path) -> bool:
    """Raises KeyFileUnreadable if this process lacks the permission to check."""
    try:
        return path.exists()
    except OSError as error:
        raise KeyFileUnreadable(path, f"cannot be read: {error.strerror}") from None


def _check_place(path: Path) -> None:
    """Raises KeyFileError if gateways would not trust a file at `path`: such a key must not be issued."""
    try:
        trusted_files.check_place(path)
    except UntrustedFile as error:
        raise KeyFileError(path, str(error)) from None
    except OSError as error:
        raise KeyFileError(path, f"cannot be written: {error.strerror}") from None


@contextmanager
def _exclusive(path: Path) -> Generator[None]:
    """Holds the file's lock, so that no other writer changes it between a read and the write after it."""
    file = path.resolve()  # one lock per file, also if links name it
    try:
        descriptor = os.open(
            file.with_name(f".{file.name}.lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise KeyFileError(path, f"cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, keys: list[Key]) -> None:
    """Replaces the file atomically. Raises KeyFileError; the file is then unchanged."""
    text = _Document(keys=keys).model_dump_json(indent=2, exclude_none=False) + "\n"
    try:
        trusted_files.replace(path, text)
    except UntrustedFile as error:
        raise KeyFileError(path, str(error)) from None
    except OSError as error:
        raise KeyFileError(path, f"cannot be written: {error.strerror}") from None
