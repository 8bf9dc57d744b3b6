"""create_gateway: the routes, what stands before them, and what lives as long as they are served."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI

from coordinator.assistants.function import AgentFunction
from coordinator.assistants.ports import Assistant
from coordinator.gateway import errors
from coordinator.gateway.caller import Authenticate, trusting
from coordinator.gateway.routes import probes
from coordinator.gateway.services import Services
from coordinator.gateway.settings import GatewaySettings
from coordinator.manager import RunManager
from coordinator.webhooks.deliverer import Deliverer, targets_of


class Gateway(FastAPI):
    """An ASGI app. Served by itself it opens and closes the manager; mounted, its host enters `running`."""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Everything that lives as long as requests are answered: for the lifespan of the host app."""
        services: Services = self.state.services
        manager = services.manager
        async with manager, Deliverer(manager, services.settings, targets=services.targets).running():
            try:
                yield
            finally:  # runs that end now have webhooks that are due now
                await manager.shutdown()


def create_gateway(
    manager: RunManager,
    assistants: Mapping[str, AgentFunction | Assistant] | None = None,
    *,
    settings: GatewaySettings | None = None,
    authenticate: Authenticate | None = None,
) -> Gateway:
    """The Runs API on `manager`, for `assistants` by name besides those that the manager knows.

    Without `authenticate` every caller may do everything: for loopback, or behind a host that has checked.
    """
    del assistants
    app = Gateway(title="run-coordinator", lifespan=_lifespan)
    given = settings or GatewaySettings()
    app.state.services = Services(manager, given, targets_of(given))
    app.state.authenticate = authenticate or trusting
    errors.install(app)
    app.include_router(probes.router)
    return app


@asynccontextmanager
async def _lifespan(app: Gateway) -> AsyncGenerator[None]:
    async with app.running():
        yield
