"""Credentials that change: a provider, asked for user and password at each connect."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

from redis.credentials import CredentialProvider

from coordinator.redis.names import in_thread


class Credentials(Protocol):
    """As redis-py's `CredentialProvider`, whose subclasses fit. Returns (user, password), or (password,)
    alone."""

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """May block: it is called in a thread, unless the provider overrides `get_credentials_async`."""
        ...


class Provider(CredentialProvider):
    """Adapts `source` for redis-py. Whatever it raises is a failed attempt to connect."""

    def __init__(self, source: Credentials) -> None:
        self._source = source

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        return self._source.get_credentials()

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        given = getattr(type(self._source), "get_credentials_async", None)
        if given is None or given is CredentialProvider.get_credentials_async:
            return await in_thread(self._source.get_credentials, "credentials for Redis")
        return await cast("Any", self._source).get_credentials_async()


def load(name: str) -> Credentials:
    """Call the function that `module:function` names, without arguments. Raises ValueError."""
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"{name!r} must be module:function")
    try:
        function = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be loaded: {error}") from error
    made = function()
    if not hasattr(made, "get_credentials"):
        raise ValueError(f"{name!r} returned no credential provider, but a {type(made).__name__}")
    return cast("Credentials", made)
