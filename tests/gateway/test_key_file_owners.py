"""A gateway of another user refuses a revoked key within a second, with every owner and mode of the file."""

from __future__ import annotations

import asyncio
import os
import struct
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from coordinator.cli import app
from coordinator.gateway import key_file
from coordinator.gateway.caller import Role
from coordinator.gateway.key_file import KeyFileError
from coordinator.gateway.keys import Keys
from coordinator.gateway.trusted_files import fingerprint
from tests.support.forked import ForkedProcess, Program, fork
from tests.support.other_user import GID, UID

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for two users")

PRELOAD = ("tests.support.other_user",)
WATCH = Program("tests.support.other_user:watch_key", preload=PRELOAD)
COMMAND = Program("tests.support.other_user:command_line", preload=PRELOAD)


class Kept(NamedTuple):
    """Owner and mode of a key file. `by_other`: the other user revokes instead of root."""

    uid: int
    gid: int
    mode: int
    folder: int = 0o755
    by_other: bool = False


KEPT = {
    "root:root 0644": Kept(0, 0, 0o644),
    "root:group 0640": Kept(0, GID, 0o640),
    "root:group 0440": Kept(0, GID, 0o440),
    "root:group 0040": Kept(0, GID, 0o040),
    "root:group 0640, sticky folder": Kept(0, GID, 0o640, folder=0o1777),
    "owner 0600": Kept(UID, GID, 0o600, by_other=True),
    "owner 0400": Kept(UID, GID, 0o400, by_other=True),
    "owner:group 0640": Kept(UID, GID, 0o640, by_other=True),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can access, unlike pytest's own folders."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


class Made(NamedTuple):
    path: Path
    key_id: str
    text: str


def made(folder: Path, kept: Kept) -> Made:
    path = folder / "keys.json"
    key, text = key_file.create(path, role=Role.user, user_id="alice")
    os.chown(path, kept.uid, kept.gid)
    path.chmod(kept.mode)
    folder.chmod(kept.folder)
    if kept.by_other:
        os.chown(folder, kept.uid, kept.gid)
        (folder / ".keys.json.lock").unlink()
    return Made(path, key.id, text)


@asynccontextmanager
async def watched(one: Made, *, good_for: float = 60.0) -> AsyncGenerator[ForkedProcess]:
    """A gateway process of the other user that accepts the key."""
    process = await fork(WATCH, str(one.path), one.text, str(good_for))
    try:
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
            assert line.startswith(b"good "), await process.stderr.read()
        yield process
    finally:
        with suppress(ProcessLookupError):  # the process ends when the key is refused
            process.kill()
        await process.wait()


async def refused_at(process: ForkedProcess, *, within: float) -> float:
    async with asyncio.timeout(within):
        line = await process.stdout.readline()
    assert line.startswith(b"refused "), await process.stderr.read()
    return float(line.split()[1])


def files_in(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


async def revoke(one: Made, *, by_other: bool) -> None:
    words = ("keys", "revoke", "--file", str(one.path), one.key_id)
    if not by_other:
        assert await asyncio.to_thread(app.run, words) == 0  # the command runs an event loop of its own
        return
    process = await fork(COMMAND, *words)
    _, err = await process.communicate()
    assert process.returncode == 0, err


@pytest.mark.parametrize("kept", KEPT.values(), ids=list(KEPT))
async def test_revoked_key_is_refused_within_a_second(folder: Path, kept: Kept) -> None:
    one = made(folder, kept)
    async with watched(one) as gateway:
        await revoke(one, by_other=kept.by_other)
        revoked_at = time.monotonic()
        assert await refused_at(gateway, within=30) - revoked_at < 1.0
    after = one.path.stat()
    assert (after.st_uid, after.st_gid, after.st_mode & 0o7777) == (kept.uid, kept.gid, kept.mode)


def access_list(*, mask: int) -> bytes:
    """Grants the other user read access to a file that only root may read."""
    absent_id = 0xFFFFFFFF
    entries = [(1, 6, absent_id), (2, 4, UID), (4, 0, absent_id), (16, mask, absent_id), (32, 0, absent_id)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


async def test_revoked_key_is_refused_if_an_access_list_grants_the_gateway_reading(folder: Path) -> None:
    one = made(folder, Kept(0, 0, 0o600))
    try:
        os.setxattr(one.path, "system.posix_acl_access", access_list(mask=4))
    except OSError as error:
        pytest.skip(f"this file system has no access lists: {error.strerror}")
    async with watched(one) as gateway:
        await revoke(one, by_other=False)
        revoked_at = time.monotonic()
        assert await refused_at(gateway, within=30) - revoked_at < 1.0
    assert os.getxattr(one.path, "system.posix_acl_access") == access_list(mask=4)


def test_file_is_refused_if_an_access_list_grants_others_writing(folder: Path) -> None:
    one = made(folder, Kept(0, 0, 0o600))
    entry = access_list(mask=6).replace(struct.pack("<HHI", 2, 4, UID), struct.pack("<HHI", 2, 6, UID))
    try:
        os.setxattr(one.path, "system.posix_acl_access", entry)
    except OSError as error:
        pytest.skip(f"this file system has no access lists: {error.strerror}")
    with pytest.raises(KeyFileError, match="writable by other users"):
        Keys(one.path)


async def test_revoked_key_is_refused_behind_a_link_which_is_kept(folder: Path) -> None:
    (folder / "real").mkdir()
    one = made(folder / "real", Kept(0, GID, 0o640))
    link = folder / "keys.json"
    link.symlink_to("real/keys.json")
    async with watched(one._replace(path=link)) as by_link, watched(one) as by_name:
        await revoke(one._replace(path=link), by_other=False)
        revoked_at = time.monotonic()
        assert await refused_at(by_link, within=30) - revoked_at < 1.0
        assert await refused_at(by_name, within=30) - revoked_at < 1.0
    assert link.is_symlink()


@pytest.mark.parametrize(
    "kept",
    [Kept(0, GID, 0o640, by_other=True), Kept(UID, 0, 0o640, by_other=True)],
    ids=["a file of root's", "a group that its owner is not in"],
)
async def test_revoking_is_refused_if_owner_and_group_cannot_be_kept(folder: Path, kept: Kept) -> None:
    one = made(folder, kept)
    os.chown(folder, UID, GID)
    before, contents = fingerprint(one.path), one.path.read_bytes()
    process = await fork(COMMAND, "keys", "revoke", "--file", str(one.path), one.key_id)
    _, err = await process.communicate()
    assert (process.returncode, b"cannot be kept" in err) == (2, True), err
    assert b"Traceback" not in err
    assert (fingerprint(one.path), one.path.read_bytes()) == (before, contents)
    assert files_in(folder) == {"keys.json", ".keys.json.lock"}


async def test_folder_that_the_other_user_may_not_enter_is_named(folder: Path) -> None:
    one = made(folder, Kept(UID, GID, 0o600, folder=0o700))
    for words in (["revoke", one.key_id], ["create", "--user", "bob"], ["list"]):
        process = await fork(COMMAND, "keys", *words, "--file", str(one.path))
        _, err = await process.communicate()
        assert process.returncode == 2, err
        assert b"Permission denied" in err
        assert b"Traceback" not in err


async def test_all_keys_are_refused_after_the_file_became_unreadable(folder: Path) -> None:
    one = made(folder, Kept(0, GID, 0o640))
    async with watched(one, good_for=1.5) as gateway:
        os.chown(one.path, 0, 0)
        lost_at = time.monotonic()
        assert 0.9 < await refused_at(gateway, within=30) - lost_at < 5.0
        async with asyncio.timeout(30):
            log = (await gateway.stderr.read()).decode()
    assert log.count("all API keys are refused and the worker is not ready") == 1, log
    assert "Permission denied" in log


@pytest.mark.parametrize("command", [("create", "--user", "bob"), ("list",), ("revoke", "k")], ids=" ".join)
async def test_root_is_advised_to_run_as_the_owner_of_the_file(
    folder: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    one = made(folder, Kept(UID, GID, 0o600))
    assert await asyncio.to_thread(app.run, ["keys", *command, "--file", str(one.path)]) == 2
    assert f"run this as that user, sudo -u '#{UID}'" in capsys.readouterr().err
