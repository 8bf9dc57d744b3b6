"""The port that workers share, and how long a slot waits for its next worker."""

from __future__ import annotations

import socket
import sys
from contextlib import closing

import pytest

from coordinator.gateway.server.backoff import STEADY, Backoff
from coordinator.gateway.server.channel import Orders
from coordinator.gateway.server.failures import CannotServe
from coordinator.gateway.server.listening import Listening
from coordinator.gateway.server.supervisor import MAX_FAILED_STARTS, Supervisor
from tests.support.inside import count_failed_starts


def connects(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_connections_are_refused_before_a_worker_listens() -> None:
    listening = Listening("127.0.0.1", 0, 3)
    try:
        assert not connects(listening.port)
        listening.socket(1).listen()
        assert connects(listening.port)
    finally:
        listening.close()
    assert not connects(listening.port)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the slots share one socket")
def test_slot_without_a_worker_refuses_connections() -> None:
    listening = Listening("127.0.0.1", 0, 1)
    try:
        listening.socket(0).listen()
        with socket.create_connection(("127.0.0.1", listening.port)) as waiting:
            listening.renew(0)
            with pytest.raises(ConnectionResetError):
                waiting.recv(1)
        assert not connects(listening.port)
        listening.socket(0).listen()
        assert connects(listening.port)
    finally:
        listening.close()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:"),
        ("localhost", "http://127.0.0.1:"),
        ("0.0.0.0", "http://127.0.0.1:"),
    ],
)
def test_url_is_reachable_for_local_clients(host: str, url: str) -> None:
    listening = Listening(host, 0, 1)
    listening.close()
    assert listening.url.startswith(url)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a" * 300])
def test_foreign_address_is_refused_with_a_hint(host: str) -> None:
    with pytest.raises(CannotServe, match=r"127\.0\.0\.1"):
        Listening(host, 0, 1)


def test_backoff_grows_to_a_bound_and_resets_after_steady_service() -> None:
    backoff = Backoff()
    assert [backoff.next(0) for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert backoff.next(STEADY) == 0
    assert backoff.next(STEADY - 1) == 0.5


async def test_server_whose_workers_cannot_be_started_again_gives_up_with_exit_status_1() -> None:
    """And not with 2, as for a mistake in its options."""

    async def orders(slot: int) -> Orders:
        raise AssertionError("no worker is started")

    with closing(Listening("127.0.0.1", 0, 2)) as listening:
        supervisor = Supervisor(listening, orders, slots=2, announce=print)
        error = CannotServe("importing 'mine' raised ModuleNotFoundError")
        count_failed_starts(supervisor, error, MAX_FAILED_STARTS - 1)
        with pytest.raises(CannotServe, match=r"gave up after 10 failed starts .* importing 'mine'") as last:
            count_failed_starts(supervisor, error, 1)
    assert last.value.code == 1
