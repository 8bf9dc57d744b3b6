"""The fixtures that all parts of the suite share."""

from __future__ import annotations

import pytest

from stores.base import CoordinationStore
from tests.support.builders import StoreClock, new_worker


class StoreCase:
    @pytest.fixture
    def clock(self) -> StoreClock:
        return StoreClock()

    @pytest.fixture
    async def me(self, store: CoordinationStore) -> int:
        """A live worker."""
        return await store.register(new_worker())

    @pytest.fixture
    async def peer(self, store: CoordinationStore) -> int:
        """Another live worker of the same host."""
        return await store.register(new_worker())
