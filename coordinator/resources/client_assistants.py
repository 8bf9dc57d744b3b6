"""`manager.client_assistants`: assistants that clients create from registered ones."""

from __future__ import annotations

from coordinator import arguments as check
from coordinator.errors import AssistantExists, AssistantNotFound, InvalidArgument
from stores.assistants import AssistantQuery, AssistantRow, AssistantStore
from stores.base import CoordinationStore
from stores.event_loop import HomeLoop
from stores.pages import Page


class ClientAssistants:
    """Raises InvalidArgument if the store keeps no assistants.

    `user_id` restricts a call to that user's assistants: another user's assistant is unknown. Registered
    assistants are in `manager.assistants` alone.
    """

    def __init__(self, store: CoordinationStore, *, home: HomeLoop) -> None:
        self._store, self._home = store, home
        self._keeping = store if isinstance(store, AssistantStore) else None

    @property
    def kept(self) -> bool:
        """Whether the store keeps assistants."""
        return self._keeping is not None

    @property
    def _kept(self) -> AssistantStore:
        self._home.check()
        if self._keeping is None:
            raise InvalidArgument("assistant", f"{self._store.url} keeps none")
        return self._keeping

    async def create(self, assistant: AssistantRow) -> AssistantRow:
        """Create an assistant, as version 1. Raises AssistantExists if its id is in use, by any user."""
        check.check_id("assistant_id", assistant.assistant_id)
        created = await self._kept.create_assistant(assistant)
        if created is None:
            raise AssistantExists(assistant.assistant_id)
        return created

    async def get(self, assistant_id: str, *, user_id: str | None = None) -> AssistantRow:
        """The latest version: one read of an index. Raises AssistantNotFound."""
        assistant = await self._kept.assistant(
            check.check_id("assistant_id", assistant_id), user_id=check.check_optional_id("user_id", user_id)
        )
        if assistant is None:
            raise AssistantNotFound(assistant_id)
        return assistant

    async def change(self, assistant: AssistantRow, *, user_id: str | None = None) -> AssistantRow | None:
        """Write a further version, if the row is as it was read. None = it was changed or deleted since."""
        return await self._kept.change_assistant(
            assistant, user_id=check.check_optional_id("user_id", user_id)
        )

    async def set_version(
        self, assistant_id: str, version: int, *, user_id: str | None = None
    ) -> AssistantRow:
        """Make a former version the latest one. Raises AssistantNotFound, also for an unknown version."""
        assistant = await self._kept.set_assistant_version(
            check.check_id("assistant_id", assistant_id),
            check.check_limit("version", version),
            user_id=check.check_optional_id("user_id", user_id),
        )
        if assistant is None:
            existing = await self.versions(assistant_id, AssistantQuery(limit=1), user_id=user_id)
            newest = existing[0].version if existing else None
            raise AssistantNotFound(assistant_id, version, newest=newest)
        return assistant

    async def delete(self, assistant_id: str, *, user_id: str | None = None) -> None:
        """Delete the assistant with its versions; admitted runs are not affected. Raises
        AssistantNotFound."""
        if not await self._kept.delete_assistant(
            check.check_id("assistant_id", assistant_id), user_id=check.check_optional_id("user_id", user_id)
        ):
            raise AssistantNotFound(assistant_id)

    async def search(
        self, query: AssistantQuery | None = None, *, user_id: str | None = None
    ) -> Page[AssistantRow]:
        """A page of assistants; default: the ten that were created last. Raises SearchTooLong."""
        return await self._kept.assistants(
            query or AssistantQuery(), user_id=check.check_optional_id("user_id", user_id)
        )

    async def count(self, query: AssistantQuery | None = None, *, user_id: str | None = None) -> int:
        """The number of assistants that match, on all pages. Raises SearchTooLong."""
        return await self._kept.count_assistants(
            query or AssistantQuery(), user_id=check.check_optional_id("user_id", user_id)
        )

    async def versions(
        self, assistant_id: str, query: AssistantQuery | None = None, *, user_id: str | None = None
    ) -> Page[AssistantRow]:
        """The versions, the newest first; of `query`, metadata and bounds count. Empty for an unknown
        assistant."""
        return await self._kept.assistant_versions(
            check.check_id("assistant_id", assistant_id),
            query or AssistantQuery(),
            user_id=check.check_optional_id("user_id", user_id),
        )
