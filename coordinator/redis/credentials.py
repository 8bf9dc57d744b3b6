"""Rotating credentials: a provider returns user and password for each new connection."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

from redis.credentials import CredentialProvider

from coordinator.redis.names import in_thread


class Credentials(Protocol):
    """The interface of redis-py's `CredentialProvider`; its subclasses implement this protocol."""

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Returns (user, password), or (password,). May block: it is called in a thread, unless the provider
        overrides `get_credentials_async`."""
        ...


class Provider(CredentialProvider):
    """Adapts `source` for redis-py. Every exception of `source` counts as a failed attempt to connect."""

    def __init__(self, source: Credentials) -> None:
        self._source = source

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        return self._source.get_credentials()

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        method = getattr(type(self._source), "get_credentials_async", None)
        if method is None or method is CredentialProvider.get_credentials_async:
            return await in_thread(self._source.get_credentials, "credentials for Redis")
        return await cast("Any", self._source).get_credentials_async()  # Any: its stub is partially unknown


def load(name: str) -> Credentials:
    """Calls the function `module:function` without arguments, and returns the provider that it returns.
    Raises ValueError."""
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"{name!r} must be module:function")
    try:
        function = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be loaded: {error}") from error
    provider = function()
    if not hasattr(provider, "get_credentials"):
        raise ValueError(f"{name!r} returned no credential provider, but a {type(provider).__name__}")
    return cast("Credentials", provider)
