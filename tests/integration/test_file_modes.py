"""Files that this project makes are readable by their owner only, whatever the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coordinator import RunContext, open_coordinator
from coordinator.cli.serve.folder import data_folder
from coordinator.gateway.server.failures import CannotServe
from stores.sqlite import SQLiteStore
from tests.support.command_line import DONE, USAGE, cli


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    return {file.name: oct(stat.S_IMODE(file.stat().st_mode)) for file in folder.iterdir()}


@asynccontextmanager
async def opened(path: Path) -> AsyncGenerator[None]:
    store = SQLiteStore(path)
    await store.open()
    try:
        yield
    finally:
        await store.aclose()


async def work(ctx: RunContext) -> None:
    await ctx.save({"text": "hello"})


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777], ids=oct, indirect=True)
async def test_a_new_sqlite_store_and_the_files_beside_it_are_private(tmp_path: Path, umask: int) -> None:
    async with open_coordinator(f"sqlite:///{tmp_path / 'runs.db'}", grace=0) as manager:
        run = await manager.create_or_reject("t", "agent")
        manager.launch(run, work)
        await manager.wait(run.run_id, timeout=20)
        assert modes(tmp_path) == dict.fromkeys(
            ["runs.db", "runs.db-wal", "runs.db-shm", "runs.db-gate"], "0o600"
        )


async def test_a_store_that_is_migrated_by_command_is_private(tmp_path: Path) -> None:
    assert (await cli("db", "migrate", "--store", f"sqlite:///{tmp_path / 'runs.db'}")).code == DONE
    assert set(modes(tmp_path).values()) == {"0o600"}


async def test_the_mode_of_a_store_that_exists_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    path.touch()
    path.chmod(0o640)
    async with opened(path):
        assert modes(tmp_path) == dict.fromkeys(
            ["runs.db", "runs.db-wal", "runs.db-shm", "runs.db-gate"], "0o640"
        )


async def test_a_new_store_behind_a_link_is_private(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "runs.db"
    link.symlink_to("real/runs.db")
    async with opened(link):
        assert set(modes(tmp_path / "real").values()) == {"0o600"}


async def test_looking_makes_no_file(tmp_path: Path) -> None:
    await cli("db", "check", "--store", f"sqlite:///{tmp_path / 'runs.db'}")
    assert modes(tmp_path) == {}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".coordinator"


def test_the_data_folder_is_private(folder: Path, umask: int) -> None:
    data_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert data_folder() == folder


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_data_folder_that_is_open_to_others_is_refused(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(CannotServe, match=r"open to other users.*chmod 700"):
        data_folder()
    assert list(folder.iterdir()) == []


def test_a_link_in_place_of_the_data_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to("elsewhere")
    with pytest.raises(CannotServe, match="is not a folder"):
        data_folder()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_data_folder_of_another_user_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, -1)
    with pytest.raises(CannotServe, match="another user"):
        data_folder()


async def test_a_server_that_refuses_its_data_folder_reports_what_to_do(tmp_path: Path) -> None:
    (tmp_path / ".coordinator").mkdir(mode=0o755)
    (tmp_path / ".coordinator").chmod(0o755)
    answer = await cli("serve", "--port", "0", cwd=tmp_path)
    assert answer.code == USAGE
    assert "chmod 700" in answer.err
    assert "Traceback" not in answer.err
