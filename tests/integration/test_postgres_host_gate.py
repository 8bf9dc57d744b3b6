"""Workers of one host on PostgreSQL: the operating system proves which of them are dead."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stores import gate as gates
from stores.base import WorkerStore
from stores.errors import StoreUnavailable
from stores.postgres import Options, PostgresStore
from stores.postgres.host_gate import HostGate
from tests.support.builders import fence_epoch, holding, new_worker, worker_row
from tests.support.children import Child
from tests.support.inside_stores import open_gates, pool_of
from tests.support.postgres import Database

PEER = """
import asyncio
from stores.postgres import Options, PostgresStore
from stores.rows import NewWorker
async def main():
    url, schema, folder = args
    store = PostgresStore(url, Options(schema=schema, host_gate=folder or None), migrate=False)
    await store.open()
    send(await store.register(NewWorker("w", "here", "boot", 1, "0", 15000)))
    receive()
asyncio.run(main())
"""
"""Registers, writes its epoch, and lives on."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@asynccontextmanager
async def opened(url: str, schema: str, folder: Path | None) -> AsyncGenerator[PostgresStore]:
    gate = None if folder is None else str(folder)
    store = PostgresStore(url, Options(schema=schema, host_gate=gate), migrate=False)
    try:
        await store.open()
        yield store
    finally:
        await store.aclose()


async def test_a_killed_worker_is_proven_dead_and_a_paused_one_is_not(
    shared_postgres: Database, folder: Path
) -> None:
    async with shared_postgres.worker() as (url, schema), opened(url, schema, folder) as store:
        me = await store.register(new_worker())
        with Child(PEER, url, schema, folder) as other:
            epoch = int(other.receive())
            await holding(store, epoch)
            peer = await worker_row(store, epoch)
            assert (store.proven_dead(peer), store.proven_alive(peer)) == (False, True)
            other.pause()
            assert (store.proven_dead(peer), store.proven_alive(peer)) == (False, True)
            other.kill()
        assert (store.proven_dead(peer), store.proven_alive(peer)) == (True, False)
        await fence_epoch(store, epoch, by=me)
        assert len(await store.sweep(by=me, error="killed")) == 1
        assert store.proven_alive(await worker_row(store, me)), "its own process"


@pytest.mark.parametrize("where", ["nowhere", "elsewhere"])
async def test_a_worker_with_another_gate_is_neither_proven_dead_nor_alive(
    shared_postgres: Database, folder: Path, tmp_path: Path, where: str
) -> None:
    """Two containers with temporary folders of their own, or one that has switched it off."""
    async with shared_postgres.worker() as (url, schema), opened(url, schema, folder) as store:
        with Child(PEER, url, schema, "" if where == "nowhere" else tmp_path / "other") as other:
            peer = await worker_row(store, int(other.receive()))
            assert (store.proven_dead(peer), store.proven_alive(peer)) == (False, False)
            other.kill()
        assert (store.proven_dead(peer), store.proven_alive(peer)) == (False, False)


async def test_a_copy_of_the_gate_file_proves_nothing(
    shared_postgres: Database, folder: Path, tmp_path: Path
) -> None:
    """As two containers have it that were made from one image: the same name, other locks."""
    copy = tmp_path / "copy"
    async with shared_postgres.worker() as (url, schema), opened(url, schema, folder):
        with Child(PEER, url, schema, folder) as other:
            epoch = int(other.receive())
            shutil.copytree(folder, copy)
            async with opened(url, schema, copy) as store:
                peer = await worker_row(store, epoch)
                assert (store.proven_dead(peer), store.proven_alive(peer)) == (False, False)


async def test_a_gate_file_that_was_made_anew_proves_nothing_of_workers_that_hold_the_former(
    shared_postgres: Database, folder: Path
) -> None:
    """A cleaner of temporary files has removed it."""
    async with shared_postgres.worker() as (url, schema):
        with Child(PEER, url, schema, folder) as other:
            epoch = int(other.receive())
            shutil.rmtree(folder)
            async with opened(url, schema, folder) as store:
                peer = await worker_row(store, epoch)
                assert (store.proven_dead(peer), store.proven_alive(peer)) == (False, False)


async def test_another_boot_of_the_machine_proves_nothing(
    shared_postgres: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is on a network file system, and the peer on another host."""
    async with shared_postgres.worker() as (url, schema), opened(url, schema, folder) as one:
        epoch = await one.register(new_worker())
        monkeypatch.setattr("stores.postgres.host_gate.boot_id", lambda: "another")
        async with opened(url, schema, folder) as two:
            peer = await worker_row(two, epoch)
            assert (two.proven_dead(peer), two.proven_alive(peer)) == (False, False)


async def test_who_retires_and_who_could_not_register_are_vouched_for_no_more(
    shared_postgres: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shared_postgres.worker() as (url, schema), opened(url, schema, folder) as store:
        epoch = await store.register(new_worker())
        peer = await worker_row(store, epoch)
        await store.retire(epoch)
        assert not store.proven_alive(peer)
        begun = list[int]()
        begin = HostGate.begin

        def seen(self: HostGate) -> int:
            begun.append(begin(self))
            return begun[-1]

        async def away(*args: Any, **kwargs: Any) -> Any:
            raise StoreUnavailable("the server is away")

        monkeypatch.setattr(HostGate, "begin", seen)
        monkeypatch.setattr(pool_of(store), "run", away)
        with pytest.raises(StoreUnavailable):
            await store.register(new_worker())
        monkeypatch.undo()
        gate = gates.gate_of(folder / "workers")
        assert gate is not None
        assert [gate.is_live(byte) for byte in begun] == [False]
        gates.release(gate)


@pytest.fixture(params=["a symlink", "a file", "writable by others"])
def unfit(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Path:
    if request.param == "a symlink":
        (tmp_path / "there").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "there")
    elif request.param == "a file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o770)
    return folder


async def test_a_folder_that_others_may_change_is_not_used(
    shared_postgres: Database, unfit: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with shared_postgres.worker() as (url, schema):
        with caplog.at_level(logging.WARNING, "stores"):
            async with opened(url, schema, unfit) as store:
                worker: WorkerStore = store
                peer = await worker_row(store, await store.register(new_worker()))
                assert (worker.proven_dead(peer), worker.proven_alive(peer)) == (False, False)
        assert "lease" in caplog.text
    assert list_of(unfit) == []


def list_of(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def mode_of(folder: Path) -> tuple[int, int]:
    info = folder.stat()
    return info.st_mode & 0o777, info.st_uid


async def test_the_folder_is_made_for_its_owner_alone(shared_postgres: Database, folder: Path) -> None:
    async with shared_postgres.worker() as (url, schema), opened(url, schema, folder / "deeper"):
        assert mode_of(folder / "deeper") == (0o700, os.geteuid())


async def test_stores_of_one_process_share_the_gate_and_close_it_with_the_last(
    shared_postgres: Database, folder: Path
) -> None:
    async with shared_postgres.worker() as (url, schema), opened(url, schema, folder) as one:
        async with opened(url, schema, folder) as two:
            mine, other = await one.register(new_worker()), await two.register(new_worker())
        for epoch in (mine, other):
            assert not one.proven_dead(await worker_row(one, epoch))
    assert not any(path.endswith("/workers-gate") and str(folder) in path for path in map(str, open_gates()))
