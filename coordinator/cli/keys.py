"""keys create, list, revoke: manages the file of API keys of a gateway."""

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
ALL_USERS = "all users"


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
    """Create a key. It is printed only here: the file stores its hash. Raises InvalidArgument."""
    if role not in Role.__members__:
        raise InvalidArgument("--role", f"{role!r} is not one of {', '.join(Role.__members__)}")
    _check_user(Role[role], user, everyone=everyone)
    key, text = key_file.create(path, role=Role[role], user_id=user, name=name, expires_at=_expiry(expires))
    if as_json:
        screen.show_document({"key": {**key_document(key), "text": text}})
        return DONE
    print(text)
    scope = ALL_USERS if key.user_id is None else repr(key.user_id)
    note(f"key {key.id} with role {key.role} for {scope} is stored in {path}. It is not shown again.")
    return DONE


def _check_user(role: Role, user: str | None, *, everyone: bool) -> None:
    """Raises InvalidArgument if the role does not allow this scope."""
    if user is not None and everyone:
        raise InvalidArgument("--everyone", "excludes --user")
    if role is Role.reader and user is None and not everyone:
        raise InvalidArgument(
            "--user", "a reader key requires --user, or --everyone for the threads of all users"
        )
    if role is Role.user and user is None:
        raise InvalidArgument("--user", "a key with role user requires a user")
    if role is Role.admin and user is not None:
        raise InvalidArgument("--user", "a key with role admin has access to the threads of all users")


def _expiry(age: str | None) -> datetime | None:
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
            ALL_USERS if key.user_id is None else key.user_id,
            key.name or None,
            f"{key.created_at:%Y-%m-%d}",
            "expired" if key.expired(now) else key.expires_at and f"{key.expires_at:%Y-%m-%d %H:%M}",
        )
        for key in keys
    ]
    screen.show_table(COLUMNS, lines, none=f"no keys in {path}", spare=("CREATED", "NAME"))
    return DONE


def revoke_key(path: Path, key_id: str, *, store: str | None, as_json: bool) -> int:
    """Revoke a key, given by its id or as the key itself. Raises CommandFailed if the file does not contain
    it."""
    wanted = key_file.id_in(key_id) or key_id
    revoked = key_file.revoke(path, wanted)
    if revoked is None:
        hint = "`coordinator keys list` shows the existing keys."
        raise CommandFailed("KeyNotFound", f"key {wanted!r} does not exist in {path}", hint)
    from coordinator.cli.pending_work import describe, read_pending_work  # imports a store, which is slow

    keyless = None if revoked.user_id is None or _has_key(path, revoked.user_id) else revoked.user_id
    pending = None if keyless is None else read_pending_work(keyless, store)
    if as_json:
        work = pending and pending[0]._asdict()
        screen.show_document({"revoked": key_document(revoked), "pending_work": work})
    else:
        screen.show_lines([f"key {revoked.id} is revoked; gateways refuse it within a second"])
        if keyless is not None and pending is not None:
            screen.show_lines(describe(keyless, *pending))
    return DONE


def _has_key(path: Path, user_id: str) -> bool:
    now = datetime.now(UTC)
    return any(key.user_id == user_id and not key.expired(now) for key in key_file.read(path).values())
