"""API keys are stored as hashes, scoped, reloaded, and refused if altered."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi import Request

from coordinator.errors import InvalidArgument
from coordinator.gateway import key_file
from coordinator.gateway.caller import Caller, Role
from coordinator.gateway.key_file import KeyFileError
from coordinator.gateway.keys import POLL_INTERVAL, Keys, presented
from tests.support.asgi import key_for, serving
from tests.support.waiting import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_file_contains_only_the_hash_of_a_key(path: Path) -> None:
    key, text = key_file.create(path, role=Role.user, user_id="alice", name="laptop")
    assert text not in path.read_text()
    assert text.rpartition("_")[2] not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert Keys(path).caller_of(text) == Caller("alice", Role.user, key.id)


def test_secrets_have_256_bits_and_are_unique(path: Path) -> None:
    texts = {key_file.create(path, role=Role.admin, user_id=None)[1] for _ in range(50)}
    assert len(texts) == 50
    assert all(len(text.split("_", 2)[2]) == 43 for text in texts)


_SPOILT: dict[str, Callable[[str], str]] = {
    "shorter": lambda text: text[:-1],
    "longer": lambda text: text + "A",
    "in capitals": lambda text: text.upper(),
    "another prefix": lambda text: text.replace("rck_", "rcx_"),
    "the id alone": lambda text: text.split("_", 2)[1],
    "another id": lambda text: "_".join(["rck", "0" * 12, text.split("_", 2)[2]]),
    "empty": lambda text: "",
    "prefix": lambda text: "rck_",
    "no id": lambda text: "rck__" + text.split("_", 2)[2],
    "no secret": lambda text: "_".join(text.split("_")[:2]) + "_",
    "letters of others": lambda text: "ключ",
    "NUL": lambda text: "\x00",
}


@pytest.mark.parametrize("spoil", _SPOILT)
def test_altered_key_is_refused(path: Path, spoil: str) -> None:
    _, text = key_file.create(path, role=Role.admin, user_id=None)
    assert Keys(path).caller_of(_SPOILT[spoil](text)) is None


def test_hash_is_not_accepted_as_a_key(path: Path) -> None:
    key, _ = key_file.create(path, role=Role.admin, user_id=None)
    assert Keys(path).caller_of(key.hash) is None
    assert Keys(path).caller_of(f"rck_{key.id}_{key.hash}") is None


@pytest.mark.parametrize(
    ("role", "user"), [(Role.user, None), (Role.admin, "alice"), (Role.reader, "a\nb"), (Role.user, "")]
)
def test_role_and_scope_must_match(path: Path, role: Role, user: str | None) -> None:
    with pytest.raises(InvalidArgument):
        key_file.create(path, role=role, user_id=user)
    assert not path.exists()


def test_an_expired_key_is_refused(path: Path) -> None:
    now = datetime.now(UTC)
    _, old = key_file.create(path, role=Role.admin, user_id=None, expires_at=now - timedelta(seconds=1))
    _, new = key_file.create(path, role=Role.admin, user_id=None, expires_at=now + timedelta(hours=1))
    keys = Keys(path)
    assert keys.caller_of(old) is None
    assert keys.caller_of(new) is not None


def test_changed_file_is_reread_and_revoked_key_is_refused(path: Path, clock: Clock) -> None:
    key, text = key_file.create(path, role=Role.admin, user_id=None)
    keys = Keys(path, clock=clock)
    key_file.revoke(path, key.id)
    _, other = key_file.create(path, role=Role.user, user_id="bob")
    assert keys.caller_of(text) is not None
    clock.now += POLL_INTERVAL
    assert keys.caller_of(text) is None
    assert keys.caller_of(other) is not None


@pytest.mark.parametrize("harm", ["broken", "writable", "gone"])
def test_invalid_file_keeps_the_current_keys(
    path: Path, clock: Clock, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, text = key_file.create(path, role=Role.admin, user_id=None)
    keys = Keys(path, clock=clock)
    _, later = key_file.create(path, role=Role.admin, user_id=None)
    if harm == "broken":
        path.write_text('{"version": 1, "keys": [')
    elif harm == "writable":
        path.chmod(0o666)
    else:
        path.unlink()
    for _ in range(3):
        clock.now += POLL_INTERVAL
        assert keys.caller_of(text) is not None
        assert keys.caller_of(later) is None
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


@pytest.mark.parametrize("harm", ["writable", "gone", "folder"])
def test_all_keys_are_refused_a_minute_after_the_file_became_unreadable(
    path: Path, clock: Clock, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, text = key_file.create(path, role=Role.admin, user_id=None)
    contents = path.read_bytes()
    keys = Keys(path, clock=clock)
    if harm == "writable":
        path.chmod(0o666)
    elif harm == "folder":
        path.parent.chmod(0o777)
    else:
        path.unlink()
    for _ in range(59):
        clock.now += 1
        assert keys.caller_of(text) is not None
        assert keys.trouble is None
    clock.now += 1
    assert keys.caller_of(text) is None
    assert "keys.json" in (keys.trouble or "")
    clock.now += 1
    assert keys.caller_of(text) is None
    assert [record.getMessage()[:24] for record in caplog.records] == [
        "the key file is unreadab",
        "all API keys are refused",
    ]
    path.write_bytes(b"{")
    path.chmod(0o600)
    path.parent.chmod(0o700)
    clock.now += 1
    assert keys.caller_of(text) is None, "an invalid file makes no refused key valid again"
    path.write_bytes(contents)
    clock.now += 1
    assert keys.caller_of(text) is not None
    assert keys.trouble is None


def test_grace_begins_anew_when_the_file_was_readable_in_between(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    _, text = key_file.create(path, role=Role.admin, user_id=None)
    away = path.with_name("away.json")
    keys = Keys(path, clock=clock)
    for _ in range(2):
        path.rename(away)
        for _ in range(59):
            clock.now += 1
            assert keys.caller_of(text) is not None
        away.rename(path)
        clock.now += 1
        assert keys.caller_of(text) is not None
    assert not [line for line in caplog.messages if line.startswith("all API keys are refused")]


def test_unreadable_file_is_detected_at_the_first_request(path: Path, clock: Clock) -> None:
    _, text = key_file.create(path, role=Role.admin, user_id=None)
    keys = Keys(path, clock=clock)
    path.unlink()
    clock.now += 3600
    assert keys.caller_of(text) is None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_file_writable_by_others_is_refused(path: Path, mode: int) -> None:
    key_file.create(path, role=Role.admin, user_id=None)
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod"):
        Keys(path)


@pytest.mark.parametrize("mode", [0o775, 0o777])
def test_folder_writable_by_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = _in_folder(tmp_path / "open", mode)
    with pytest.raises(KeyFileError, match="folder"):
        Keys(path)


@pytest.mark.parametrize("mode", [0o775, 0o777])
def test_folder_of_a_link_target_writable_by_others_is_refused(tmp_path: Path, mode: int) -> None:
    target = _in_folder(tmp_path / "open", mode)
    (tmp_path / "between").symlink_to(target)
    link = tmp_path / "keys.json"
    link.symlink_to("between")
    with pytest.raises(KeyFileError, match=r"folder .*open"):
        Keys(link)
    target.parent.chmod(0o755)
    assert len(Keys(link)) == 1


def test_sticky_folder_is_accepted(tmp_path: Path) -> None:
    assert len(Keys(_in_folder(tmp_path / "open", 0o1777))) == 1


def test_chain_of_links_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.symlink_to("keys.json")
    with pytest.raises(KeyFileError, match="cannot be read"):
        Keys(path)


def test_pipe_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyFileError, match="not a regular file"):
        Keys(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
def test_link_of_another_user_is_refused(path: Path) -> None:
    key_file.create(path.with_name("real.json"), role=Role.admin, user_id=None)
    path.symlink_to("real.json")
    os.chown(path, 12345, -1, follow_symlinks=False)
    with pytest.raises(KeyFileError, match="link"):
        Keys(path)


def _in_folder(folder: Path, mode: int) -> Path:
    """Creates a key file, then sets the mode of its folder."""
    folder.mkdir()
    key_file.create(folder / "keys.json", role=Role.admin, user_id=None)
    folder.chmod(mode)
    return folder / "keys.json"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(path: Path) -> None:
    key_file.create(path, role=Role.admin, user_id=None)
    os.chown(path, 12345, -1)
    with pytest.raises(KeyFileError, match="another user"):
        Keys(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"version": 2, "keys": []}',
        '{"keys": [{"id": "0123456789ab"}]}',
        '{"keys": "rck_0123456789ab_SECRET"}',
        '{"keys": [{"secret": "rck_0123456789ab_SECRET"}]}',
    ],
)
def test_invalid_key_file_is_reported_without_its_contents(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=r"keys\.json' is not a valid file of API keys: ") as raised:
        Keys(path)
    assert "SECRET" not in str(raised.value)


def test_two_keys_with_one_id_are_refused(path: Path) -> None:
    key_file.create(path, role=Role.admin, user_id=None)
    document = json.loads(path.read_text())
    document["keys"] *= 2
    path.write_text(json.dumps(document))
    with pytest.raises(KeyFileError, match="one id"):
        Keys(path)


def test_concurrently_created_keys_are_all_kept(path: Path) -> None:
    def make(number: int) -> str:
        return key_file.create(path, role=Role.user, user_id=f"u{number}")[1]

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(24)))
    keys = Keys(path)
    assert all(keys.caller_of(text) is not None for text in made)
    assert [entry.name for entry in path.parent.iterdir() if entry.suffix == ".tmp"] == []


@pytest.fixture
def failing_sync(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes `os.fsync` of files, or of folders, fail with an error number."""

    def fail(number: int, *, of_folders: bool) -> None:
        sync = os.fsync

        def syncing(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode) == of_folders:
                raise OSError(number, os.strerror(number))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", syncing)

    return fail


def test_key_is_created_where_folders_cannot_be_synced(path: Path, failing_sync: Callable[..., None]) -> None:
    failing_sync(errno.EINVAL, of_folders=True)
    _, text = key_file.create(path, role=Role.admin, user_id=None)
    assert Keys(path).caller_of(text) is not None


@pytest.mark.parametrize("of_folders", [False, True], ids=["file", "folder"])
def test_failed_write_is_reported_with_its_reason(
    path: Path, failing_sync: Callable[..., None], of_folders: bool
) -> None:
    _, text = key_file.create(path, role=Role.admin, user_id=None)
    failing_sync(errno.EIO, of_folders=of_folders)
    with pytest.raises(KeyFileError, match=r"keys\.json' cannot be written: Input/output error"):
        key_file.create(path, role=Role.user, user_id="bob")
    assert Keys(path).caller_of(text) is not None


def test_file_in_a_missing_folder_cannot_be_written(path: Path) -> None:
    missing = path.parent / "missing" / "keys.json"
    with pytest.raises(KeyFileError, match=r"keys\.json' cannot be written: No such file or directory"):
        key_file.create(missing, role=Role.admin, user_id=None)


def test_revoking_keeps_the_files_mode_and_the_other_keys(path: Path) -> None:
    first, _ = key_file.create(path, role=Role.admin, user_id=None)
    _, second = key_file.create(path, role=Role.admin, user_id=None)
    path.chmod(0o640)
    assert key_file.revoke(path, first.id) == first
    assert key_file.revoke(path, first.id) is None
    assert path.stat().st_mode & 0o777 == 0o640
    assert Keys(path).caller_of(second) is not None


def _request(*headers: tuple[str, str]) -> Request:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return Request({"type": "http", "headers": raw})


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([("x-api-key", "k")], "k"),
        ([("authorization", "Bearer k")], "k"),
        ([("authorization", "bearer  k ")], "k"),
        ([("authorization", "Basic abc"), ("x-api-key", "k")], "k"),
        ([("authorization", "Bearer k"), ("x-api-key", "k")], "k"),
        ([("authorization", "Bearer other"), ("x-api-key", "k")], None),
        ([("x-api-key", "k"), ("x-api-key", "other")], None),
        ([("authorization", "k")], None),
        ([("cookie", "x-api-key=k")], None),
        ([], None),
    ],
)
def test_key_is_read_from_both_headers(headers: list[tuple[str, str]], key: str | None) -> None:
    assert presented(_request(*headers)) == key


@pytest.fixture(params=["x-api-key", "bearer"])
def spelling(request: pytest.FixtureRequest) -> str:
    return request.param


async def test_requests_need_a_key(path: Path, spelling: str) -> None:
    text = key_for(path, Role.admin)["x-api-key"]
    headers = {"x-api-key": text} if spelling == "x-api-key" else {"authorization": f"Bearer {text}"}
    async with serving(api_keys=path) as (_, client):
        refused = await client.get("/coordinator/workers")
        served = await client.get("/coordinator/workers", headers=headers)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert served.status_code == 200


async def test_missing_key_file_fails_the_start(path: Path) -> None:
    with pytest.raises(KeyFileError):
        async with serving(api_keys=path):
            pass


async def test_worker_without_a_readable_key_file_is_not_ready(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.gateway.keys.POLL_INTERVAL", 0.01)
    monkeypatch.setattr("coordinator.gateway.keys.GRACE", 0.05)
    headers, away = key_for(path, Role.admin), path.with_name("away")
    async with serving(api_keys=path) as (_, client):

        async def ready() -> bool:
            return (await client.get("/coordinator/health/ready")).status_code == 200

        async def not_ready() -> bool:
            return not await ready()

        assert (await client.get("/coordinator/health", headers=headers)).status_code == 200
        await wait_until(ready, description="the worker is ready")
        await asyncio.to_thread(path.rename, away)
        await wait_until(not_ready, description="the worker is not ready")
        assert (await client.get("/coordinator/health", headers=headers)).status_code == 401
        await asyncio.to_thread(away.rename, path)
        await wait_until(ready, description="the worker is ready")
        assert (await client.get("/coordinator/health", headers=headers)).status_code == 200
