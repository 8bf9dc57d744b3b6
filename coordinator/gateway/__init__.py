"""The HTTP gateway: the Runs API on a RunManager. `create_gateway` creates an ASGI app to serve or to mount,
`serve` serves that app or the app that it is mounted in."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.gateway.app import Gateway, create_gateway
    from coordinator.gateway.server.hosting import serve
    from coordinator.gateway.server.protocol import BoundedProtocol
    from coordinator.gateway.settings import GatewaySettings

__all__ = ["BoundedProtocol", "Gateway", "GatewaySettings", "create_gateway", "serve"]

# Imported at first use: a supervisor needs none of them, and their imports take longer than all others.
_HOMES = {
    "BoundedProtocol": "coordinator.gateway.server.protocol",
    "Gateway": "coordinator.gateway.app",
    "GatewaySettings": "coordinator.gateway.settings",
    "create_gateway": "coordinator.gateway.app",
    "serve": "coordinator.gateway.server.hosting",
}

_EXTRA = {"cronsim", "fastapi", "httpcore2", "prometheus_client", "starlette", "uvicorn"}
"""Modules of the extra that the gateway requires; httptools, uvloop and watchfiles are optional."""

if not TYPE_CHECKING:  # type checkers use the imports above and report other names

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in _EXTRA:
                raise
            raise ModuleNotFoundError(
                f"coordinator.gateway needs {error.name}, which the extra [gateway] installs:"
                " pip install 'run-coordinator[gateway]'",
                name=error.name,
            ) from None
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
