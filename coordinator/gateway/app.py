"""create_gateway: the routes, what stands before them, and what lives as long as they are served."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.types import ASGIApp

from coordinator.assistants import demo
from coordinator.assistants.function import AgentFunction
from coordinator.assistants.ports import Assistant
from coordinator.crons.firing import FiringLoop
from coordinator.errors import InvalidArgument
from coordinator.gateway import errors
from coordinator.gateway.caller import Authenticate
from coordinator.gateway.crons import firing_for
from coordinator.gateway.held import Watchers
from coordinator.gateway.keys import Keys
from coordinator.gateway.metrics import Metrics
from coordinator.gateway.middleware.envelope import Envelope
from coordinator.gateway.middleware.guard import guard
from coordinator.gateway.middleware.proxies import Forwarded, Proxies
from coordinator.gateway.middleware.public import Public
from coordinator.gateway.routes import assistants as assistant_routes
from coordinator.gateway.routes import (
    crons,
    documentation,
    operations,
    probes,
    runs,
    stateless,
    states,
    threads,
)
from coordinator.gateway.services import Services
from coordinator.gateway.settings import GatewaySettings
from coordinator.gateway.wire.json import JsonAnswer
from coordinator.manager import RunManager
from coordinator.runs.jobs import Jobs
from coordinator.webhooks.deliverer import Deliverer, targets_of

logger = logging.getLogger(__name__)

DEMO = "agent"

_running: set[Gateway] = set()


def running_gateways() -> tuple[Gateway, ...]:
    """Of this process, for whoever ends it."""
    return tuple(_running)


class Gateway(FastAPI):
    """An ASGI app. Served by itself it opens and closes the manager; mounted, its host enters `running`."""

    def build_middleware_stack(self) -> ASGIApp:
        """Outside of all, also of what answers for failures: their answers have a request id too."""
        app = Envelope(super().build_middleware_stack(), self.state.observers)
        proxies: Proxies = self.state.proxies
        return Forwarded(app, proxies) if proxies else app

    def let_go(self) -> None:
        """Break off every stream and every answer that is waited for: clients go on at another worker. For
        whoever stops the server: once the manager has drained, and before the server waits for open
        answers. No client is taken to have gone away by that."""
        services: Services = self.state.services
        services.watchers.let_go()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Everything that lives as long as requests are answered: for the lifespan of the host app."""
        services: Services = self.state.services
        manager = services.manager
        deliverer = Deliverer(manager, services.settings, targets=services.targets)
        firing = FiringLoop(manager, firing_for(services), poll=services.settings.cron_poll)
        async with manager, deliverer.running(), firing.running():
            fresh = services.jobs.spawn(services.metrics.keep_fresh(), "The metrics")
            _running.add(self)
            try:
                yield
            finally:
                _running.discard(self)
                fresh.cancel()
                await manager.shutdown()  # runs that end now have webhooks that are due now
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
    given = settings or GatewaySettings()
    for name, agent in (assistants or {}).items():
        manager.assistants.register(agent, name=name)
    if given.demo_assistant:
        _offer_demo(manager)
    app = Gateway(
        title="run-coordinator",
        version=version("run-coordinator"),
        lifespan=_lifespan,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's page loads its scripts from elsewhere
        redoc_url=None,
        default_response_class=JsonAnswer,
    )
    app.router.routes.extend(documentation.routes)
    documents = tuple(app.routes)  # FastAPI's own description of the API, and the page that shows it
    watchers = Watchers(given.max_streams, given.streams_per_user)
    metrics = Metrics(manager, watchers)
    manager.observe(metrics.of_run)
    app.state.services = Services(manager, given, watchers, metrics, Jobs(), targets_of(given))
    app.state.observers = (metrics.of_request,)
    app.state.proxies = Proxies(given.trusted_proxies)
    errors.install(app)
    # The public ones first, see `Public`; then what is asked most: each route before it costs a request 3 us.
    for noun in (probes, stateless, runs, threads, states, assistant_routes, crons, operations):
        # Not included: FastAPI would match each request against all of them twice, for 0.4 ms. They have
        # all that an inclusion would give them.
        app.router.routes.extend(noun.router.routes)
    guard(
        app,
        given,
        authenticate or _keys_of(manager, given),
        public=Public((*documents, *probes.router.routes)),
    )
    return app


def _keys_of(manager: RunManager, settings: GatewaySettings) -> Keys | None:
    """None if no file of keys is named. Raises KeyFileError."""
    if settings.api_keys is None:
        return None
    keys = Keys(settings.api_keys)
    manager.add_health_check(f"API keys of {settings.api_keys}", lambda: keys.trouble)
    return keys


def _offer_demo(manager: RunManager) -> None:
    if DEMO in manager.assistants:
        return
    try:
        manager.assistants.register(demo.agent, name=DEMO)
    except InvalidArgument:  # whoever opened the manager has told the peers already what it can run
        logger.info("No demo assistant: the manager was opened before the gateway was made")


@asynccontextmanager
async def _lifespan(app: Gateway) -> AsyncGenerator[None]:
    async with app.running():
        yield
