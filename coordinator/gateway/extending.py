"""Settings of a gateway with what a configuration adds to them."""

from __future__ import annotations

from coordinator.errors import InvalidArgument
from coordinator.gateway.middleware.origins import Pages
from coordinator.gateway.settings import GatewaySettings
from coordinator.langgraph.extension import Extension


def extended(settings: GatewaySettings, extension: Extension) -> GatewaySettings:
    """Adds origins of web pages. Idempotent. Raises InvalidArgument."""
    if extension.handlers is not None and settings.api_keys is not None:
        raise InvalidArgument(
            "auth.path",
            "cannot be combined with API keys, because a caller would have two identities: remove --api-keys"
            " (COORDINATOR_API_KEYS), or the key auth",
        )
    if not extension.cors.origins:
        return settings
    try:
        Pages(extension.cors.origins)
    except ValueError as error:
        raise InvalidArgument("http.cors.allow_origins", str(error)) from None
    origins = tuple(dict.fromkeys((*settings.cors_origins, *extension.cors.origins)))
    return settings.model_copy(update={"cors_origins": origins})
