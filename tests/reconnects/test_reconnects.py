"""The short form of `make reconnects`, with real processes."""

from __future__ import annotations

import pytest

from tests.reconnects.__main__ import campaign


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
async def test_no_event_is_lost_or_doubled_by_clients_that_come_back(store: str) -> None:
    assert await campaign(store, 60)
