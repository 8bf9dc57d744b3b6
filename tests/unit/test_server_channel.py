"""A supervisor and its workers may be of different versions: SIGHUP after an upgrade."""

from __future__ import annotations

import socket
from dataclasses import asdict
from typing import Any

import pytest

from coordinator.gateway.server.channel import Orders, Ready, as_known
from tests.support.children import Child

WORKER = """
import os
from coordinator.gateway.server.channel import WorkerEnd
descriptor = int(args[0])
send("inherited" if os.get_inheritable(descriptor) else "not inherited")
end = WorkerEnd(descriptor)
send("inherited" if os.get_inheritable(descriptor) else "not inherited")
"""


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Orders, Orders(slot=2, assistants="mine:agents")), (Ready, Ready(epoch=3, grace=30.0))],
)
def test_fields_of_a_newer_program_are_left_out(kind: Any, message: Any) -> None:
    assert as_known(kind, {**asdict(message), "of_a_newer_program": {"a": 1}}) == message


def test_processes_that_a_worker_starts_do_not_hold_its_channel_open() -> None:
    """The supervisor takes the end of the channel for the end of the worker."""
    supervisor, worker = socket.socketpair()
    with supervisor, worker, Child(WORKER, worker.fileno(), pass_fds=[worker.fileno()]) as child:
        assert child.receive() == "inherited"
        assert child.receive() == "not inherited"
