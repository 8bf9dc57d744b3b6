"""Where Redis is: sentinels that lie, names that move or hang, TLS, credentials that rotate."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis.credentials import CredentialProvider

from coordinator import Settings, open_coordinator
from coordinator.errors import InvalidArgument
from coordinator.notifier import Connectivity
from coordinator.notifiers import redis as notifiers
from coordinator.notifiers.redis import RedisNotifier
from coordinator.redis import keeper
from coordinator.redis.address import Address
from coordinator.redis.link import RedisLink
from coordinator.servers.process import free_port
from coordinator.servers.valkey import ValkeyServer
from coordinator.testing.conformance.notifiers import CANCEL
from tests.support.inside import epochs_without_receiver, keeper_of
from tests.support.linked import HEALS_WITHIN, linked, notified, until
from tests.support.pretenders import certificate, named, sentinel_url, sentinels, tls_before
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_task_left")

# ---- sentinels -----------------------------------------------------------------------------------------

BAD: dict[str, Callable[[], bytes | None]] = {
    "names a closed port": lambda: named("127.0.0.1", free_port()),
    "names itself": lambda: b"",  # replaced by the test
    "lacks the permission": lambda: b"-NOPERM User x has no permissions to run 'sentinel' command\r\n",
    "is a plain Redis": lambda: b"-ERR unknown command 'SENTINEL'\r\n",
    "does not know the service": lambda: b"*-1\r\n",
    "answers garbage": lambda: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "answers something else": lambda: b"*2\r\n$4\r\nhost\r\n$4\r\nport\r\n",
    "is silent": lambda: None,
}


class Naming:
    """A sentinel's answer: where `server` is."""

    def __init__(self, server: ValkeyServer) -> None:
        self.server = server

    def __call__(self) -> bytes:
        return named(self.server.host, self.server.port)


@pytest.mark.parametrize("bad", BAD)
async def test_one_bad_sentinel_in_first_place_costs_nothing(
    shared_valkey: ValkeyServer, namespace: str, bad: str
) -> None:
    good = Naming(shared_valkey)
    async with sentinels(BAD[bad], good, good) as made:
        if bad == "names itself":
            made[0].answer = lambda: named("127.0.0.1", made[0].port)
        link = RedisLink(sentinel_url(*made), namespace=namespace)
        await wait_until(link.ping, description="connected", timeout=HEALS_WITHIN + 3)
        questions = made[0].questions
        for _ in range(3):
            keeper_of(link).drop("by the test")
            await wait_until(link.ping, description="connected again", timeout=HEALS_WITHIN)
        assert made[0].questions == questions, "it is queried last from then on"
        await link.aclose()


async def test_replica_named_by_a_sentinel_is_not_kept(own_valkey: ValkeyServer, namespace: str) -> None:
    with ValkeyServer("--replicaof", own_valkey.host, str(own_valkey.port)) as replica:
        async with sentinels(Naming(replica), Naming(own_valkey)) as made:
            link = RedisLink(sentinel_url(*made), namespace=namespace)
            await wait_until(link.ping, description="connected to the master", timeout=HEALS_WITHIN + 3)
            await link.aclose()


async def test_missing_sentinels_are_reported_in_few_words(namespace: str) -> None:
    ports = [free_port() for _ in range(2)]
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    link = RedisLink(f"redis+sentinel://{hosts}/service", namespace=namespace)
    assert not await link.ping()
    assert link.trouble is not None
    assert "no sentinel names the master of 'service'" in link.trouble
    assert all(str(port) in link.trouble for port in ports)
    assert "<" not in link.trouble
    await link.aclose()


# ---- another server than a new connection would go to ---------------------------------------------------


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "MOVE_CHECK_INTERVAL", 0.2)


@pytest.mark.usefixtures("often")
async def test_all_connections_follow_what_the_sentinels_name(
    own_valkey: ValkeyServer, shared_valkey: ValkeyServer, namespace: str
) -> None:
    """The old master lives on and answers, as behind a split network."""
    answer = Naming(own_valkey)
    async with sentinels(answer, answer, answer) as made, notified(sentinel_url(*made), namespace) as worker:
        await worker.start(1)
        await until(worker, Connectivity.connected)
        resyncs = worker.resyncs
        answer.server = shared_valkey
        await wait_until(lambda: worker.resyncs > resyncs, description="listening at the new one")
        await until(worker, Connectivity.connected)
        channel = f"{namespace}:{{w:1}}:ctl"
        shared_valkey.command("PUBLISH", channel, '{"kind":"cancel","thread_id":"t","run_id":"r"}')
        await wait_until(lambda: CANCEL in worker.signals, description="a hint of the new master's")


@pytest.mark.usefixtures("often")
async def test_sentinel_outvoted_by_the_others_moves_nothing(
    own_valkey: ValkeyServer, shared_valkey: ValkeyServer, namespace: str
) -> None:
    right, wrong = Naming(own_valkey), Naming(own_valkey)
    async with sentinels(wrong, right, right) as made, linked(sentinel_url(*made), namespace) as link:
        wrong.server = shared_valkey
        questions = made[0].questions
        await wait_until(lambda: made[0].questions > questions + 3, description="it was queried again")
        assert keeper_of(link).connects == 1


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("answers", [["127.0.0.2"], ["127.0.0.2", "127.0.0.1"]], ids=["moved", "one of two"])
async def test_name_that_moves_is_followed(
    namespace: str, monkeypatch: pytest.MonkeyPatch, answers: list[str]
) -> None:
    with ValkeyServer("--bind", "127.0.0.1", "127.0.0.2") as server:
        look_up, current = socket.getaddrinfo, ["127.0.0.1"]
        hosts: list[str] = []

        def getaddrinfo(host: str, port: int, **options: Any) -> Any:
            hosts.append(host)
            if host != "redis.test":
                return look_up(host, port, **options)
            return [entry for address in current for entry in look_up(address, port, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        async with linked(f"redis://redis.test:{server.port}/0", namespace) as link:
            current = answers
            if len(answers) == 1:
                await wait_until(lambda: keeper_of(link).connects == 2, description="connected anew")
                await wait_until(link.ping, description="up")
                wire = keeper_of(link).wire
                assert wire is not None
                assert wire.opened.address == "127.0.0.2"
            else:
                before = len(hosts)
                await wait_until(lambda: len(hosts) > before + 3, description="looked up again")
                assert keeper_of(link).connects == 1


async def test_next_address_of_a_name_is_used_when_one_refuses(
    shared_valkey: ValkeyServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, **options: Any) -> Any:
        addresses = ["127.0.0.3", shared_valkey.host] if host == "redis.test" else [host]
        return [entry for address in addresses for entry in look_up(address, port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with linked(f"redis://redis.test:{shared_valkey.port}/0", namespace) as link:
        wire = keeper_of(link).wire
        assert wire is not None
        assert wire.opened.address == shared_valkey.host


async def test_worker_that_no_hint_reaches_is_warned_of_once(
    shared_valkey: ValkeyServer,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(notifiers, "_UNRECEIVED_FOR", 0.0)
    async with notified(shared_valkey.url, namespace) as worker:
        await worker.start(1)
        notifier = worker.notifier
        assert isinstance(notifier, RedisNotifier)

        def warnings() -> list[str]:
            return [text for record in caplog.records if "receive hints" in (text := record.getMessage())]

        monkeypatch.setattr(notifiers, "_UNRECEIVED_FOR", 0.01)
        notifier.notify_worker(2, CANCEL)
        await wait_until(lambda: epochs_without_receiver(notifier), description="no receiver was found")
        assert warnings() == []
        await asyncio.sleep(0.02)
        for _ in range(3):
            notifier.notify_worker(2, CANCEL)
            notifier.notify_worker(1, CANCEL)
        await wait_until(lambda: len(worker.signals) == 3, description="its own")
        (line,) = warnings()
        assert "Worker epoch 2 does not receive hints" in line
        assert caplog.records[-1].levelno == logging.WARNING


# ---- a name server that hangs ---------------------------------------------------------------------------


async def test_look_up_that_hangs_delays_no_other_call(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))  # one look-up would fill it
    hangs = threading.Event()
    look_ups: list[object] = []

    def getaddrinfo(*arguments: Any, **_: Any) -> Any:
        look_ups.append(arguments)
        hangs.wait(30)
        raise OSError("gone")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(keeper, "CONNECT_LIMIT", 0.1)
    link = RedisLink("redis://redis.test", namespace=namespace)
    try:
        await link.ping()
        for _ in range(20):
            await link.ping()
            await asyncio.sleep(0.05)
        assert len(look_ups) == 1, "attempts share one look-up"
        assert await asyncio.wait_for(asyncio.to_thread(lambda: 7), 10) == 7
        assert link.trouble == "no answer within 0.1 s"
    finally:
        hangs.set()
        await link.aclose()


# ---- TLS ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_tls_context_is_made_once_and_anew_for_new_files(
    shared_valkey: ValkeyServer, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof, create = certificate(tmp_path), ssl.create_default_context
    made: list[ssl.SSLContext] = []

    def counted() -> ssl.SSLContext:
        made.append(create())
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", counted)
    async with tls_before(shared_valkey, proof) as port:
        url = f"rediss://localhost:{port}/0?ssl_ca_certs={proof.certificate}"
        async with linked(url, namespace, budget=5.0) as link:
            for _ in range(3):
                keeper_of(link).drop("by the test")
                await wait_until(link.ping, description="connected again", timeout=HEALS_WITHIN + 3)
            assert len(made) == 1
            proof.certificate.touch()
            keeper_of(link).drop("by the test")
            await wait_until(link.ping, description="connected again", timeout=HEALS_WITHIN + 3)
            assert len(made) == 2
        wrong = RedisLink(
            f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={proof.certificate}", namespace=namespace
        )
        while not wrong.away:
            assert not await wrong.ping()
        assert "127.0.0.1" in (wrong.trouble or ""), "the name is checked, not the address connected to"
        await wrong.aclose()


async def test_port_without_tls_is_reported_in_words(
    shared_valkey: ValkeyServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "CONNECT_LIMIT", 0.3)
    link = RedisLink(f"rediss://127.0.0.1:{shared_valkey.port}/0?ssl_cert_reqs=none", namespace=namespace)
    while not link.away:
        assert not await link.ping()
    assert link.trouble is not None
    assert "TLS" in link.trouble or "SSL" in link.trouble
    await link.aclose()


# ---- credentials ----------------------------------------------------------------------------------------


class Rotating:
    """Without redis-py's base class: what is needed is one method."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.threads: list[str] = []

    def get_credentials(self) -> tuple[str, str]:
        self.threads.append(threading.current_thread().name)
        return "default", self.password


class RotatingAsync(CredentialProvider):
    def __init__(self, password: str) -> None:
        self.password = password

    async def get_credentials_async(self) -> tuple[str, str]:
        await asyncio.sleep(0)
        return "default", self.password


def provider() -> Rotating:
    return Rotating("first")


@pytest.mark.parametrize("make", [Rotating, RotatingAsync])
async def test_credentials_are_requested_at_each_connect(
    own_valkey: ValkeyServer, namespace: str, make: type[Rotating | RotatingAsync]
) -> None:
    own_valkey.command("CONFIG", "SET", "requirepass", "first")
    given = make("first")
    link = RedisLink(Address(own_valkey.url, given), namespace=namespace)
    await wait_until(link.ping, description="connected", timeout=HEALS_WITHIN)
    given.password = "second"
    keeper_of(link).drop("by the test")
    await wait_until(lambda: link.away, description="the old one is still right")
    admin = RedisLink(own_valkey.url.replace("redis://", "redis://:first@"))
    assert await admin.ping()
    await admin.aclose()
    given.password = "first"
    await wait_until(link.ping, description="connected with what was rotated in", timeout=HEALS_WITHIN)
    if isinstance(given, Rotating):
        assert set(given.threads) == {"credentials for Redis"}, (
            "the loop does not wait for a blocking provider"
        )
    await link.aclose()


async def test_provider_is_given_as_object_or_by_name(own_valkey: ValkeyServer, tmp_path: Path) -> None:
    own_valkey.command("CONFIG", "SET", "requirepass", "first")
    store = f"sqlite:///{tmp_path / 'runs.db'}"
    name = f"{__name__}:provider"
    ways: list[dict[str, Any]] = [{"redis_credentials": provider()}, {"settings": _settings(name)}]
    for options in ways:
        async with open_coordinator(store, redis=own_valkey.url, **options) as manager:
            await wait_until(
                lambda manager=manager: manager.worker.connectivity is Connectivity.connected,
                description="connected",
            )


def _settings(name: str) -> Settings:
    return Settings(redis_credentials=name)


@pytest.mark.parametrize("name", ["nonsense", "no.such.module:f", f"{__name__}:missing", "builtins:dict"])
async def test_provider_that_cannot_be_loaded_is_refused_at_start(name: str, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'runs.db'}"
    with pytest.raises(InvalidArgument, match="redis_credentials"):
        async with open_coordinator(store, redis="redis://localhost", settings=_settings(name)):
            pass


def test_credentials_come_from_one_place() -> None:
    with pytest.raises(ValueError, match="beside a provider") as refused:
        Address("redis://:s3cr3t@localhost", provider())
    assert "s3cr3t" not in str(refused.value)
