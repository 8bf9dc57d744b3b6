"""A supervisor and its workers may be of different versions: SIGHUP after an upgrade."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from coordinator.gateway.server.channel import Orders, Ready, as_known


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Orders, Orders(slot=2, assistants="mine:agents")), (Ready, Ready(epoch=3, grace=30.0))],
)
def test_fields_of_a_newer_program_are_left_out(kind: Any, message: Any) -> None:
    assert as_known(kind, {**asdict(message), "of_a_newer_program": {"a": 1}}) == message
