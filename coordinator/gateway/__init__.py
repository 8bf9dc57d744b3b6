"""The HTTP gateway: the Runs API on a RunManager. `create_gateway` makes an ASGI app to serve or to mount."""

from coordinator.gateway.app import Gateway, create_gateway
from coordinator.gateway.settings import GatewaySettings

__all__ = ["Gateway", "GatewaySettings", "create_gateway"]
