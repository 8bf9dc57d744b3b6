"""create_gateway: the routes, what stands before them, and what lives as long as they are served."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.types import ASGIApp

from coordinator.assistants.function import AgentFunction
from coordinator.assistants.ports import Assistant
from coordinator.gateway import errors
from coordinator.gateway.caller import Authenticate
from coordinator.gateway.middleware.envelope import Envelope
from coordinator.gateway.middleware.guard import guard
from coordinator.gateway.routes import operations, probes
from coordinator.gateway.services import Services
from coordinator.gateway.settings import GatewaySettings
from coordinator.manager import RunManager


class Gateway(FastAPI):
    """An ASGI app. Served by itself it opens and closes the manager; mounted, its host enters `running`."""

    def build_middleware_stack(self) -> ASGIApp:
        """Outside of all, also of what answers for failures: their answers have a request id too."""
        return Envelope(super().build_middleware_stack(), self.state.observers)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Everything that lives as long as requests are answered: for the lifespan of the host app."""
        services: Services = self.state.services
        async with services.manager:
            fresh = services.jobs.spawn(services.metrics.keep_fresh(services.manager), "The metrics")
            try:
                yield
            finally:
                fresh.cancel()
        await services.jobs.finished(1.0)


def create_gateway(
    manager: RunManager,
    assistants: Mapping[str, AgentFunction | Assistant] | None = None,
    *,
    settings: GatewaySettings | None = None,
    authenticate: Authenticate | None = None,
) -> Gateway:
    """The Runs API on `manager`, for `assistants` by name besides those that the manager knows.

    Callers are those whom `authenticate` knows, by default by the keys of the file `settings.api_keys`.
    Without both every caller may do everything: for loopback, see `exposure`. Raises KeyFileError.
    """
    del assistants
    given = settings or GatewaySettings()
    services = Services(manager, given)
    manager.observe(services.metrics.of_run)
    app = Gateway(
        title="run-coordinator",
        version=version("run-coordinator"),
        lifespan=_lifespan,
        redirect_slashes=False,
    )
    documents = tuple(app.routes)  # FastAPI's own: the description of the API, and pages that show it
    app.state.services = services
    app.state.observers = (services.metrics.of_request,)
    errors.install(app)
    app.include_router(probes.router)
    app.include_router(operations.router)
    guard(app, given, authenticate, public=(*documents, *probes.router.routes))
    return app


@asynccontextmanager
async def _lifespan(app: Gateway) -> AsyncGenerator[None]:
    async with app.running():
        yield
