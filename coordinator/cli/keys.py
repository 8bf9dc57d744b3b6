"""keys create, list, revoke: the file of API keys that a gateway is given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from coordinator.cli import screen
from coordinator.cli.documents import key_document
from coordinator.cli.failures import DONE, CommandFailed, note
from coordinator.cli.filters import seconds_of
from coordinator.errors import InvalidArgument
from coordinator.gateway import key_file
from coordinator.gateway.caller import Role

COLUMNS = ("KEY", "ROLE", "USER", "NAME", "CREATED", "EXPIRES")
EVERYBODY = "everybody"


def create_key(
    path: Path,
    *,
    role: str,
    user: str | None,
    everyone: bool,
    name: str,
    expires: str | None,
    as_json: bool,
) -> int:
    """The key is shown here and nowhere else: the file has its hash. Raises InvalidArgument."""
    if role not in Role.__members__:
        raise InvalidArgument("--role", f"{role!r} is not one of {', '.join(Role.__members__)}")
    wanted = Role[role]
    if user is not None and everyone:
        raise InvalidArgument("--everyone", "is the opposite of --user")
    if wanted is Role.reader and user is None and not everyone:
        raise InvalidArgument("--user", "whose threads it may read; --everyone = everybody's")
    if wanted is Role.user and user is None:
        raise InvalidArgument("--user", "a key with the role user is for one user")
    if wanted is Role.admin and user is not None:
        raise InvalidArgument("--user", "a key with the role admin is for everybody's threads")
    key, text = key_file.create(path, role=wanted, user_id=user, name=name, expires_at=_end(expires))
    if as_json:
        screen.show_document({"key": {**key_document(key), "text": text}})
        return DONE
    print(text)
    whose = EVERYBODY if key.user_id is None else repr(key.user_id)
    note(f"key {key.id} with the role {key.role} for {whose} is in {path}. It is not shown again.")
    return DONE


def _end(age: str | None) -> datetime | None:
    if age is None:
        return None
    return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds_of(age, "--expires"))


def list_keys(path: Path, *, as_json: bool) -> int:
    keys = key_file.read(path).values()
    if as_json:
        screen.show_document({"keys": [key_document(key) for key in keys]})
        return DONE
    now = datetime.now(UTC)
    lines = [
        (
            key.id,
            key.role,
            EVERYBODY if key.user_id is None else key.user_id,
            key.name or None,
            f"{key.created_at:%Y-%m-%d}",
            "expired" if key.expired(now) else key.expires_at and f"{key.expires_at:%Y-%m-%d %H:%M}",
        )
        for key in keys
    ]
    screen.show_table(COLUMNS, lines, none=f"no keys in {path}", spare=("CREATED", "NAME"))
    return DONE


def revoke_key(path: Path, key_id: str, *, store: str | None, as_json: bool) -> int:
    """`key_id`: as `keys list` shows it, or the key itself. Raises CommandFailed where there is none."""
    wanted = key_file.id_in(key_id) or key_id
    revoked = key_file.revoke(path, wanted)
    if revoked is None:
        hint = "`coordinator keys list` shows those that are."
        raise CommandFailed("KeyNotFound", f"there is no key {wanted!r} in {path}", hint)
    from coordinator.cli.pending_work import sentences_of, work_without_key  # what opens a store is large

    left = None if revoked.user_id is None or _has_key(path, revoked.user_id) else revoked.user_id
    asked = None if left is None else work_without_key(left, store)
    if as_json:
        screen.show_document({"revoked": key_document(revoked), "pending_work": asked and asked[0]._asdict()})
    else:
        screen.show_lines([f"key {revoked.id} is revoked; gateways refuse it within a second"])
        if left is not None and asked is not None:
            screen.show_lines(sentences_of(left, *asked))
    return DONE


def _has_key(path: Path, user_id: str) -> bool:
    now = datetime.now(UTC)
    return any(key.user_id == user_id and not key.expired(now) for key in key_file.read(path).values())
