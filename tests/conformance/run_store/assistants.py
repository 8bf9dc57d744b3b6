"""Assistants of clients: kept in versions, changed by compare-and-set, unknown to other users."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from stores.assistants import AssistantQuery, AssistantRow, AssistantStore
from stores.base import CoordinationStore
from tests.conformance.run_store.case import StoreCase
from tests.support.builders import StoreClock


def new_assistant(**fields: Any) -> AssistantRow:
    known: dict[str, Any] = {
        "assistant_id": str(uuid4()),
        "user_id": None,
        "graph_id": "agent",
        "name": "Brief",
        "config": {"tags": ["ü\u0000"]},
        "context": {"style": "brief"},
        "metadata": {"team": "a"},
    }
    return AssistantRow(**{**known, **fields})


class Assistants(StoreCase):
    @pytest.fixture
    def assistants(self, store: CoordinationStore) -> AssistantStore:
        assert isinstance(store, AssistantStore)
        return store

    async def created_assistant(self, assistants: AssistantStore, **fields: Any) -> AssistantRow:
        created = await assistants.create_assistant(new_assistant(**fields))
        assert created is not None
        return created

    async def test_created_assistant_is_version_1(
        self, assistants: AssistantStore, clock: StoreClock
    ) -> None:
        new = new_assistant(user_id="u", description="short")
        made = await assistants.create_assistant(new)
        assert made == replace(new, created_at=clock.micros, updated_at=clock.micros)
        assert await assistants.assistant(new.assistant_id, user_id="u") == made
        assert await assistants.assistant(new.assistant_id, user_id=None) == made
        assert await assistants.assistant_versions(new.assistant_id, AssistantQuery(), user_id="u") == [made]

    async def test_id_in_use_is_not_created_again(self, assistants: AssistantStore) -> None:
        made = await self.created_assistant(assistants, user_id="u")
        assert await assistants.create_assistant(replace(made, user_id="v", name="other")) is None
        assert await assistants.create_assistant(made) is None
        assert await assistants.assistant(made.assistant_id, user_id=None) == made

    async def test_assistants_of_other_users_do_not_exist(self, assistants: AssistantStore) -> None:
        made, query = await self.created_assistant(assistants, user_id="u"), AssistantQuery()
        known = made.assistant_id
        assert await assistants.assistant(known, user_id="v") is None
        assert await assistants.change_assistant(made, user_id="v") is None
        assert await assistants.set_assistant_version(known, 1, user_id="v") is None
        assert await assistants.assistant_versions(known, query, user_id="v") == []
        assert await assistants.assistants(query, user_id="v") == []
        assert await assistants.count_assistants(query, user_id="v") == 0
        assert await assistants.delete_assistant(known, user_id="v") is False
        assert await assistants.assistant(known, user_id="u") == made

    async def test_change_is_a_further_version(self, assistants: AssistantStore, clock: StoreClock) -> None:
        made = await self.created_assistant(assistants)
        clock.advance(1)
        changed = await assistants.change_assistant(replace(made, name="Long", context={}), user_id=None)
        assert changed is not None
        assert changed == replace(
            made, name="Long", context={}, version=2, revision=2, updated_at=clock.micros
        )
        assert await assistants.assistant(made.assistant_id, user_id=None) == changed
        versions = await assistants.assistant_versions(made.assistant_id, AssistantQuery(), user_id=None)
        assert [(each.version, each.name, each.created_at) for each in versions] == [
            (2, "Long", changed.updated_at),
            (1, "Brief", made.created_at),
        ]

    async def test_change_of_a_former_revision_is_refused(self, assistants: AssistantStore) -> None:
        made = await self.created_assistant(assistants)
        changes = (replace(made, name=name) for name in "abc")
        written = await asyncio.gather(*(assistants.change_assistant(each, user_id=None) for each in changes))
        assert len([each for each in written if each is not None]) == 1
        latest = await assistants.assistant(made.assistant_id, user_id=None)
        assert latest in written

    async def test_former_version_becomes_the_latest_one(self, assistants: AssistantStore) -> None:
        made = await self.created_assistant(assistants, metadata={"a": 1})
        changed = await assistants.change_assistant(replace(made, graph_id="other"), user_id=None)
        assert changed is not None
        known = made.assistant_id
        back = await assistants.set_assistant_version(known, 1, user_id=None)
        assert back is not None
        assert (back.version, back.graph_id, back.revision) == (1, "agent", 3)
        assert await assistants.set_assistant_version(known, 3, user_id=None) is None
        assert await assistants.set_assistant_version(str(uuid4()), 1, user_id=None) is None
        assert await assistants.assistant(known, user_id=None) == back
        further = await assistants.change_assistant(replace(back, name="third"), user_id=None)
        assert further is not None
        assert further.version == 3

    async def test_deleted_assistant_has_no_versions(self, assistants: AssistantStore) -> None:
        made = await self.created_assistant(assistants)
        await assistants.change_assistant(made, user_id=None)
        assert await assistants.delete_assistant(made.assistant_id, user_id=None) is True
        assert await assistants.delete_assistant(made.assistant_id, user_id=None) is False
        assert await assistants.change_assistant(made, user_id=None) is None
        again = await self.created_assistant(assistants, assistant_id=made.assistant_id)
        versions = await assistants.assistant_versions(made.assistant_id, AssistantQuery(), user_id=None)
        assert versions == [again]

    @pytest.mark.parametrize(
        ("query", "names"),
        [
            (AssistantQuery(), "dcba"),
            (AssistantQuery(sort_by="name", sort_order="asc"), "abcd"),
            (AssistantQuery(sort_by="graph_id", sort_order="asc"), "adbc"),
            (AssistantQuery(sort_by="graph_id", sort_order="desc"), "cbda"),
            (AssistantQuery(limit=2, offset=1), "cb"),
            (AssistantQuery(graph_id="g2"), "cb"),
            (AssistantQuery(name="B x"), "b"),
            (AssistantQuery(metadata={"n": {"m": 1}}), "a"),
            (AssistantQuery(max_bytes=1), "d"),
        ],
        ids=str,
    )
    async def test_search(
        self, assistants: AssistantStore, clock: StoreClock, query: AssistantQuery, names: str
    ) -> None:
        for name, graph in (("a", "g1"), ("b", "g2"), ("c", "g2"), ("d", "g1")):
            metadata = {"n": {"m": 1, "k": name}} if name == "a" else {}
            await self.created_assistant(assistants, name=f"{name} X", graph_id=graph, metadata=metadata)
            clock.advance(1)
        page = await assistants.assistants(query, user_id=None)
        assert "".join(each.name[0] for each in page) == names
        assert page.cut is (query.max_bytes is not None)
        unbounded = replace(query, limit=100, offset=0, max_bytes=None)
        assert await assistants.count_assistants(query, user_id=None) == len(
            await assistants.assistants(unbounded, user_id=None)
        )

    async def test_versions_are_filtered_and_paginated(self, assistants: AssistantStore) -> None:
        row = await self.created_assistant(assistants, metadata={"n": 0})
        for number in range(1, 4):
            row = await assistants.change_assistant(
                replace(row, metadata={"n": number % 2}), user_id=None
            ) or pytest.fail("it was changed by no other")

        async def numbers(query: AssistantQuery) -> list[int]:
            page = await assistants.assistant_versions(row.assistant_id, query, user_id=None)
            return [each.version for each in page]

        assert await numbers(AssistantQuery(metadata={"n": 1})) == [4, 2]
        assert await numbers(AssistantQuery(limit=2, offset=1)) == [3, 2]
        assert await numbers(AssistantQuery(max_bytes=1)) == [4]
