"""What a graph and its factory get of the server: the user, and why the graph is opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import Context
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

from langchain_core.runnables.config import var_child_runnable_config
from langgraph.store.base import BaseStore

from coordinator.schemas import Json, User
from stores.json_values import JsonObject

AccessContext: TypeAlias = Literal["threads.create_run", "threads.update", "threads.read", "assistants.read"]
"""Why a factory is called: for a run, an update of state, a read of state, or a description."""


class AuthenticatedUser:
    """The user as graphs expect it (`langgraph_sdk.auth.types.BaseUser`): attributes and keys."""

    is_authenticated = True

    def __init__(self, user: User) -> None:
        self._fields: JsonObject = {
            **user.attributes,
            "identity": user.user_id,
            "permissions": list(user.permissions),
            "is_authenticated": True,
        }
        self.identity = user.user_id
        self.permissions = list(user.permissions)
        self.display_name = str(self._fields.setdefault("display_name", user.user_id))

    def __getattr__(self, name: str) -> Json:
        try:
            return cast("JsonObject", self.__dict__["_fields"])[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key: str) -> Json:
        return self._fields[key]

    def __contains__(self, key: object) -> bool:
        return key in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __repr__(self) -> str:
        return f"AuthenticatedUser({self.identity!r})"


@dataclass(frozen=True, slots=True)
class ServerRuntime:
    """The argument of a factory that is annotated as `langgraph_sdk.runtime.ServerRuntime`, with the
    attributes of that class."""

    access_context: AccessContext
    user: AuthenticatedUser | None = None
    store: BaseStore | None = None
    context: Json = None
    """The context of the run; None if the graph is opened for something else."""

    @property
    def execution_runtime(self) -> ServerRuntime | None:
        """This object if the graph is opened for a run, else None."""
        return self if self.access_context == "threads.create_run" else None

    def ensure_user(self) -> AuthenticatedUser:
        """Raises PermissionError if the server does not authenticate."""
        if self.user is None:
            raise PermissionError(f"no user is authenticated (access_context={self.access_context!r})")
        return self.user


@dataclass(frozen=True, slots=True)
class Access:
    """One opening of a graph. `config`: of the run, with the keys of the server."""

    context: AccessContext
    user: User | None = None
    config: JsonObject = field(default_factory=JsonObject)
    run_context: Json = None

    def runtime(self, store: BaseStore | None) -> ServerRuntime:
        user = None if self.user is None else AuthenticatedUser(self.user)
        return ServerRuntime(self.context, user, store, self.run_context)


def node_in(context: Context) -> str | None:
    """Return the node whose code has this context."""
    config = cast("JsonObject", context.get(var_child_runnable_config) or {})
    metadata: JsonObject = config.get("metadata") or {}
    return metadata.get("langgraph_node")
