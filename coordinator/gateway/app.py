"""create_gateway: assembles the routes, their middleware, and the services that run beside them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager, nullcontext
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from coordinator.assistants import demo
from coordinator.assistants.function import AgentFunction
from coordinator.assistants.ports import Assistant
from coordinator.crons.firing import FiringLoop
from coordinator.errors import InvalidArgument
from coordinator.gateway import errors
from coordinator.gateway.caller import Authenticate
from coordinator.gateway.crons import firing_for
from coordinator.gateway.custom_app import CustomApp, CustomRoutes, Prefixed
from coordinator.gateway.direct import DirectRoutes
from coordinator.gateway.extending import extended
from coordinator.gateway.identification import Identification
from coordinator.gateway.keys import Keys
from coordinator.gateway.long_lived_responses import Watchers
from coordinator.gateway.metrics import Metrics
from coordinator.gateway.middleware.bodies import PlainBodies
from coordinator.gateway.middleware.envelope import Envelope
from coordinator.gateway.middleware.guard import guard
from coordinator.gateway.middleware.proxies import Forwarded, Proxies
from coordinator.gateway.middleware.public import Public
from coordinator.gateway.page import page_routes
from coordinator.gateway.routes import assistants as assistant_routes
from coordinator.gateway.routes import (
    crons,
    documentation,
    frequent,
    items,
    operations,
    probes,
    protocol,
    runs,
    stateless,
    states,
    threads,
)
from coordinator.gateway.services import Services
from coordinator.gateway.settings import GatewaySettings
from coordinator.gateway.wire.json import TolerantJsonResponse
from coordinator.langgraph.extension import NO_EXTENSION, Extension
from coordinator.manager import RunManager
from coordinator.runs.jobs import Jobs
from coordinator.webhooks.deliverer import Deliverer, targets_of

logger = logging.getLogger(__name__)

DEMO = "agent"

# Any: the option has a type only where FastAPI has the option.
_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False}
"""`Envelope` observes requests. FastAPI would look for OpenTelemetry's providers at each one, for 14 us.
Its earlier versions have no such option and ignore it."""

_running: set[Gateway] = set()


def running_gateways() -> tuple[Gateway, ...]:
    """Returns the gateways that run in this process."""
    return tuple(_running)


class Gateway(FastAPI):
    """An ASGI app. Served by itself, its lifespan opens and closes the manager. If it is mounted in another
    app, the lifespan of that app enters `running`."""

    def build_middleware_stack(self) -> ASGIApp:
        """Adds `Envelope` outside Starlette's handler of errors, so that its responses have a request id."""
        services: Services = self.state.services
        app = Envelope(
            super().build_middleware_stack(),
            self.state.observers,
            access_log=services.settings.access_log,
        )
        proxies: Proxies = self.state.proxies
        prefix = services.extension.mount_prefix
        prefixed = Prefixed(app, prefix) if prefix else app
        return Forwarded(prefixed, proxies) if proxies else prefixed

    def abort_streams(self) -> None:
        """Aborts every stream and every response that waits for a run; their clients resume at another
        worker. Called after the manager has drained and before the server waits for open responses. An abort
        does not count as a disconnect of the client."""
        services: Services = self.state.services
        services.watchers.abort_all()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Opens the manager and runs the background services, for the lifespan of the host app."""
        services: Services = self.state.services
        manager = services.manager
        deliverer = Deliverer(
            manager.webhooks,
            manager.assistants,
            services.settings,
            targets=services.targets,
            policy=services.extension.webhooks,
        )
        firing = FiringLoop(
            manager.crons, manager.worker, firing_for(services), poll=services.settings.cron_poll
        )
        custom: CustomApp | None = self.state.custom
        beside = nullcontext() if custom is None else custom.running()
        async with manager, beside, deliverer.running(), firing.running():
            refreshing = services.jobs.spawn(services.metrics.keep_refreshed(), "The metrics")
            _running.add(self)
            try:
                yield
            finally:
                _running.discard(self)
                refreshing.cancel()
                await manager.shutdown()  # before the deliverer ends: it delivers the webhooks of ended runs
        await services.jobs.finished(1.0)


def create_gateway(
    manager: RunManager,
    assistants: Mapping[str, AgentFunction | Assistant] | None = None,
    *,
    settings: GatewaySettings | None = None,
    authenticate: Authenticate | None = None,
    extension: Extension = NO_EXTENSION,
) -> Gateway:
    """Creates the Runs API on `manager`. `assistants` are registered in addition to those of the manager.

    `authenticate` identifies callers; by default the keys of the file `settings.api_keys` do. Without both,
    every caller has all permissions, which is meant for loopback only, see `exposure`. `extension`: what a
    langgraph.json adds, whose functions identify callers instead. Raises KeyFileError, and InvalidArgument,
    also if the folder `settings.page` has no page.
    """
    gateway_settings = extended(settings or GatewaySettings(), extension)
    for name, agent in (assistants or {}).items():
        manager.assistants.register(agent, name=name)
    if offers_demo(gateway_settings, manager.assistants.names):
        _offer_demo(manager)
    app = Gateway(
        title="run-coordinator",
        version=version("run-coordinator"),
        lifespan=_lifespan,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's page loads scripts from another server
        redoc_url=None,
        default_response_class=TolerantJsonResponse,
        telemetry=_NO_TELEMETRY,
    )
    custom = _custom_app(extension)
    app.state.custom = custom
    public = _add_routes(app, gateway_settings, extension, custom)
    _install_services(app, manager, gateway_settings, extension)
    errors.install(app)
    if extension.handlers is not None and authenticate is not None:
        raise InvalidArgument("authenticate", "cannot be combined with the functions of auth.path")
    identified = _identification(app, extension) or authenticate or _keys_of(manager, gateway_settings)
    guard(app, gateway_settings, identified, public=public, extension=extension, custom=custom)
    return app


def _identification(app: Gateway, extension: Extension) -> Authenticate | None:
    """Returns what identifies callers by the functions of `auth.path`, if there are any."""
    return None if extension.handlers is None else Identification(extension.handlers, lambda: app.routes)


def _custom_app(extension: Extension) -> CustomApp | None:
    if extension.app is None:
        return None
    return CustomApp(
        extension.app,
        needs_caller=extension.app_needs_caller,
        after_authentication=extension.app_after_authentication,
        replaces_meta="meta" in extension.disabled,
    )


_KINDS: dict[str, tuple[APIRouter, ...]] = {
    "assistants": (assistant_routes.router,),
    "runs": (stateless.router, runs.router, crons.router),
    "store": (items.router,),
    "threads": (threads.router, states.router, protocol.router),
}
"""Routes that a configuration may disable."""
_META = frozenset({"/info", "/metrics"})


def _add_routes(
    app: Gateway, settings: GatewaySettings, extension: Extension, custom: CustomApp | None
) -> Public:
    if "meta" in extension.disabled:
        app.router.routes.clear()
    else:
        app.router.routes.extend(documentation.routes)
    app.router.routes.extend(() if settings.page is None else page_routes(settings.page))
    documents = tuple(app.routes)  # the OpenAPI document, the page that shows it, and the user's page
    disabled = [
        router for kind, routers in _KINDS.items() if kind in extension.disabled for router in routers
    ]
    # Public routes first, see `Public`; then the most frequent ones: each route that precedes costs 3 us.
    for module in (
        probes,
        stateless,
        runs,
        threads,
        states,
        protocol,
        assistant_routes,
        crons,
        items,
        operations,
    ):
        # Not `include_router`: FastAPI would match each request against all routes twice, which takes 0.4 ms.
        # The routers already set everything that an inclusion would add.
        if module.router not in disabled:
            app.router.routes.extend(module.router.routes)
    if "meta" in extension.disabled:
        app.router.routes[:] = [route for route in app.routes if getattr(route, "path", None) not in _META]
    # Inside all middleware and the handlers of exceptions, which are FastAPI's.
    direct = DirectRoutes(app.router.middleware_stack, frequent.of(app.routes))
    app.router.middleware_stack = PlainBodies(direct)  # the user's own app may decode them
    if custom is not None:
        app.router.middleware_stack = CustomRoutes(app.router.middleware_stack, custom)
    return Public((*documents, *probes.router.routes), custom)


def _install_services(
    app: Gateway, manager: RunManager, settings: GatewaySettings, extension: Extension
) -> None:
    """Puts what the routes and the middleware use into the state of the app."""
    watchers = Watchers(settings.max_streams, settings.streams_per_user)
    metrics = Metrics(manager.worker, watchers)
    manager.worker.observe(metrics.of_run)
    targets = targets_of(settings, extension.webhooks)
    manager.webhooks.restrict(targets.parse)
    app.state.services = Services(manager, settings, watchers, metrics, Jobs(), targets, extension)
    app.state.observers = (metrics.of_request,)
    app.state.proxies = Proxies(settings.trusted_proxies)


def _keys_of(manager: RunManager, settings: GatewaySettings) -> Keys | None:
    """Returns None if no key file is configured. Raises KeyFileError."""
    if settings.api_keys is None:
        return None
    keys = Keys(settings.api_keys)
    manager.worker.add_health_check(f"API keys of {settings.api_keys}", lambda: keys.trouble)
    return keys


def offers_demo(settings: GatewaySettings, others: Collection[str]) -> bool:
    """Returns whether the demo assistant is offered beside `others`."""
    return not others if settings.demo_assistant is None else settings.demo_assistant


def _offer_demo(manager: RunManager) -> None:
    if DEMO in manager.assistants:
        return
    try:
        manager.assistants.register(demo.agent, name=DEMO)
    except InvalidArgument:  # an open manager has already published its assistants to its peers
        logger.info(
            "the demo assistant is not offered: the manager was opened before the gateway was created"
        )


@asynccontextmanager
async def _lifespan(app: Gateway) -> AsyncGenerator[None]:
    async with app.running():
        yield
