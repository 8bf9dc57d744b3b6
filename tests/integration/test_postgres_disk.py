"""The PostgreSQL store where the server's disk is full: a write that is not durable is not acknowledged, the
error names the full disk, and once there is room again all work continues."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from coordinator.servers.postgres import PostgresServer
from stores.errors import StoreUnavailable
from stores.postgres import Options, PostgresStore
from stores.rows import Limits
from stores.states import RunStatus
from tests.support.builders import SUCCESS, admitted, cancel, new_run, new_worker, row_of, running
from tests.support.postgres import Database
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")


class SmallDisk:
    """A real file system, and the file that takes what is left of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 10):
                with suppress(OSError):
                    while os.write(file.fileno(), b"x" * size):
                        pass

    def make_room(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def small_disk() -> Generator[SmallDisk]:
    with tempfile.TemporaryDirectory(prefix="rc-disk-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the server may run as another user
        mount = ["mount", "-t", "tmpfs", "-o", "size=160m,mode=711", "tmpfs", name]
        try:
            mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            mounted = False
        if not mounted:
            pytest.skip("a small tmpfs cannot be mounted here: that needs root")
        yield SmallDisk(folder)
        subprocess.run(["umount", "--lazy", name], check=True)


class There(NamedTuple):
    server: PostgresServer
    store: PostgresStore
    epoch: int


@pytest.fixture
async def there(small_disk: SmallDisk, no_task_left: None) -> AsyncGenerator[There]:
    settings = {"max_wal_size": "32MB", "min_wal_size": "32MB"}
    with PostgresServer(durable=False, data=small_disk.folder / "cluster", settings=settings) as server:
        store = PostgresStore(server.url(), Options(away_timeout=0.5))
        await store.open()
        try:
            yield There(server, store, await store.register(new_worker()))
        finally:
            await store.aclose()


async def admit_until_it_is_refused(there: There) -> tuple[list[str], StoreUnavailable]:
    """Ids of the acknowledged runs, and the first refusal."""
    acknowledged: list[str] = []
    for number in range(2000):
        run = new_run(f"t{number}", metadata={"x": secrets.token_hex(200)})
        try:
            await there.store.admit(run, epoch=there.epoch, limits=Limits())
        except StoreUnavailable as error:
            return acknowledged, error
        acknowledged.append(run.run_id)
    pytest.fail("the disk was never full")


async def try_to_cancel(store: PostgresStore, run_ids: list[str]) -> list[str]:
    """The acknowledged ones."""
    answers = await asyncio.gather(*(cancel(store, run_id) for run_id in run_ids), return_exceptions=True)
    done: list[str] = []
    for run_id, answer in zip(run_ids, answers, strict=True):
        if isinstance(answer, BaseException):
            assert isinstance(answer, StoreUnavailable), answer
        else:
            assert answer is not None
            assert answer.won
            done.append(run_id)
    return done


async def assert_kept(store: PostgresStore, acknowledged: list[str], cancelled: list[str]) -> None:
    for run_id in acknowledged:
        steps = [step.what for step in await store.transitions(run_id)]
        assert steps[:1] == ["admitted"]
        assert steps == list(dict.fromkeys(steps)), "nothing is written twice"
    for run_id in cancelled:
        assert (await row_of(store, run_id)).status is RunStatus.interrupted


async def test_a_full_disk_acknowledges_nothing_that_is_not_written(
    small_disk: SmallDisk, there: There
) -> None:
    store, epoch = there.store, there.epoch
    own = await running(store, epoch, "before")
    await asyncio.to_thread(small_disk.fill)
    acknowledged, error = await admit_until_it_is_refused(there)
    assert acknowledged, "what fits into the pages that are there is taken"
    assert "disk is full" in str(error)
    assert "\n" not in str(error)
    cancelled = await try_to_cancel(store, acknowledged)
    with suppress(StoreUnavailable):
        assert await store.beat(epoch), "the error may be any, but the worker is not reported as fenced"
    small_disk.make_room()
    took = await wait_until(lambda: takes_runs(store, epoch), description="runs are taken", timeout=10)
    assert took < 2
    await assert_kept(store, acknowledged, cancelled)
    assert (await store.finish(own, SUCCESS)).status is RunStatus.success
    for run_id in set(acknowledged) - set(cancelled):
        decision = await cancel(store, run_id)
        assert decision is not None
        assert decision.won


async def takes_runs(store: PostgresStore, epoch: int) -> bool:
    with suppress(StoreUnavailable):
        return (await admitted(store, epoch, secrets.token_hex(4))).holds
    return False


async def test_a_server_that_gives_up_on_a_full_disk(small_disk: SmallDisk, there: There) -> None:
    """Without room for its log the server stops. After the disk has room again it is started."""
    store, epoch = there.store, there.epoch
    own = await running(store, epoch, "before")
    before = (await admitted(store, epoch, "cancelled")).run_id
    decision = await cancel(store, before)
    assert decision is not None
    await asyncio.to_thread(small_disk.fill)
    with suppress(OSError, asyncpg.PostgresError, StoreUnavailable):
        for _ in range(5):
            await Database(there.server.url()).execute("SELECT pg_switch_wal()")
            await store.beat(epoch)
    acknowledged, error = await admit_until_it_is_refused(there)
    assert "reached" in str(error) or "lost" in str(error) or "starting up" in str(error)
    small_disk.make_room()
    if there.server.over:
        there.server.start()
    await wait_until(lambda: takes_runs(store, epoch), description="runs are taken", timeout=20)
    assert "PANIC" in there.server.log()
    await assert_kept(store, acknowledged, [before])
    assert (await store.finish(own, SUCCESS)).status is RunStatus.success
