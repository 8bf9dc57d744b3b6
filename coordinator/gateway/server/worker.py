"""`python -m coordinator.gateway.server.worker DESCRIPTOR`: one worker of a supervisor.

It receives its orders over the descriptor, and reports there that it listens, or why it cannot.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, TypeVar

from coordinator.gateway.server import descriptors, logs, quick
from coordinator.gateway.server.channel import Orders, Ready, WorkerEnd, leave_at_once
from coordinator.gateway.server.editing import watch
from coordinator.gateway.server.failures import UNREACHABLE, CannotServe
from coordinator.gateway.shared_counts import share_in
from coordinator.workers.deadline import EXIT_WITHIN
from stores.json_values import JsonObject

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

    from coordinator.gateway.server.naming import Named
    from coordinator.gateway.settings import GatewaySettings
    from coordinator.langgraph.extension import Extension
    from coordinator.manager import RunManager
    from coordinator.settings import Settings
    from coordinator.telemetry import Event, Hook

logger = logging.getLogger("coordinator.serve")

_OPTIONS = {"cors_origins": "cors-origin"}
"""Settings whose option has another name."""

S = TypeVar("S", bound="BaseSettings")


def main(descriptor: int) -> int:
    """Runs the worker whose channel is `descriptor`. Returns the exit status."""
    descriptors.raise_limit()
    quick.start()
    channel = WorkerEnd(descriptor)
    if (received := channel.orders()) is None:
        return 0
    orders, port = received
    channel.watch(lambda: leave_at_once(EXIT_WITHIN))
    share_in(orders.counts)
    identity = _name_this_process(orders)
    from coordinator.gateway.server.serving import loop_factory

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(
                host(orders.app, port, channel, identity)
                if orders.app
                else work(orders, port, channel, identity)
            )
    except CannotServe as error:
        channel.failed(error)
        return error.code
    return 0


def _name_this_process(orders: Orders) -> logs.Who:
    """Gives this process the same name in its log and in the store."""
    from coordinator.telemetry.log import OfRun
    from coordinator.workers.identity import take_slot

    number = orders.slot + 1
    identity = logs.Who(f"worker {number}")
    logs.configure(orders.log_format, identity, (OfRun(),))
    take_slot(number)
    return identity


async def work(orders: Orders, port: socket.socket, channel: WorkerEnd, identity: logs.Who) -> None:
    """Serves a gateway until a signal has drained it. Raises CannotServe if it fails before it listens."""
    from coordinator.errors import InvalidArgument, StoreError
    from coordinator.gateway.extending import extended
    from coordinator.gateway.server.naming import page_at, project_at
    from coordinator.gateway.settings import GatewaySettings
    from coordinator.langgraph.extension import NO_EXTENSION
    from coordinator.settings import Settings
    from coordinator.telemetry.log import LoggingHook
    from coordinator.variables import warn_of_unknown

    if orders.slot == 0:
        warn_of_unknown(os.environ, (*Settings.model_fields, *GatewaySettings.model_fields))
    settings, gateway = _settings(Settings, orders.settings), _settings(GatewaySettings, orders.gateway)
    agents: Named = {}
    extension = NO_EXTENSION
    if orders.assistants:
        agents, extension = project_at(orders.assistants, settings.store)
        if gateway.page is None:
            gateway = gateway.model_copy(update={"page": page_at(orders.assistants)})
    # The gateway delivers webhooks, within the restrictions of the configuration.
    settings = settings.model_copy(update={"deliver_webhooks": False})
    hooks = (_epoch_hook(identity), LoggingHook(runs=gateway.log_runs))
    try:
        await _serve(
            orders,
            port,
            channel,
            settings=settings,
            gateway=extended(gateway, extension),
            agents=agents,
            extension=extension,
            hooks=hooks,
        )
    except InvalidArgument as error:
        raise CannotServe(str(error)) from error
    except StoreError as error:
        raise CannotServe(str(error), code=UNREACHABLE) from error


async def host(target: str, port: socket.socket, channel: WorkerEnd, identity: logs.Who) -> None:
    """Serves the user's ASGI app at `target` until a signal has drained it. Raises CannotServe."""
    from coordinator.gateway.server.hosting import Gateways, serve_app
    from coordinator.gateway.server.naming import app_at

    app = app_at(target)

    def ready() -> None:
        gateways = Gateways()
        identity.epoch = gateways.epoch or None
        channel.ready(Ready(epoch=gateways.epoch, grace=gateways.grace))
        quick.started()

    await serve_app(app, port, ready)


def _settings(kind: type[S], overrides: JsonObject) -> S:
    from pydantic import ValidationError

    from coordinator.settings import broken_rule, empty_variable

    try:
        return kind(**overrides)
    except ValidationError as error:
        if (broken := broken_rule(kind, error)) is not None:
            raise _broken_rule(*broken, overrides) from None
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if (empty := empty_variable(kind, name, overrides)) is not None:
            raise CannotServe(*empty) from None
        sources = _sources(str(first["loc"][0]), overrides)
        raise CannotServe(f"{name}: {first['msg']}", f"It comes from {', or from '.join(sources)}") from None


def _broken_rule(rule: str, names: Sequence[str], overrides: Container[str]) -> CannotServe:
    sources = [" or ".join(_sources(name, overrides)) for name in names]
    return CannotServe(rule, f"Change one of these settings: {', '.join(sources)}")


def _sources(name: str, overrides: Container[str]) -> list[str]:
    """Names the option, if one was given, and the environment variable that set `name`."""
    option = [f"--{_OPTIONS.get(name, name.replace('_', '-'))}"] if name in overrides else []
    return [*option, f"COORDINATOR_{name.upper()}"]


def _epoch_hook(identity: logs.Who) -> Hook:
    from coordinator.telemetry.events import WorkerRegistered

    def name(event: Event) -> None:
        if isinstance(event, WorkerRegistered):
            identity.epoch = event.epoch

    return name


async def _serve(
    orders: Orders,
    port: socket.socket,
    channel: WorkerEnd,
    *,
    settings: Settings,
    gateway: GatewaySettings,
    agents: Named,
    extension: Extension,
    hooks: tuple[Hook, ...],
) -> None:
    from coordinator.assistants import demo
    from coordinator.bootstrap import open_coordinator
    from coordinator.gateway.app import DEMO, create_gateway, offers_demo
    from coordinator.gateway.exposure import check_exposure
    from coordinator.gateway.server.serving import Http, serve_until_drained
    from coordinator.runs.exits import contain_tasks

    access = check_exposure(gateway, extension)
    assistants = {DEMO: demo.agent, **agents} if offers_demo(gateway, agents) else agents
    async with open_coordinator(settings=settings, assistants=assistants, hooks=hooks) as manager:
        manager.worker.install_executor()
        contain_tasks(asyncio.get_running_loop())
        gateway = _within_descriptors(gateway)
        app = create_gateway(manager, settings=gateway, extension=extension)
        http = Http(app, connections=gateway.max_connections)
        manager.worker.before_requested_drain(http.step_aside)

        async def ready() -> None:
            description = await _describe(manager, settings, gateway, access, [*agents, *assistants])
            channel.ready(description)
            quick.started()
            if orders.watched:
                watch(orders.watched, channel.changed)

        async with app.running():
            await serve_until_drained(
                http, manager.worker, port, ready=ready, abort_streams=app.abort_streams
            )
    logger.info("stopped")


def _within_descriptors(gateway: GatewaySettings) -> GatewaySettings:
    """Lowers the limits of connections and of streams to what the descriptors of this process allow."""
    connections = min(gateway.max_connections, descriptors.room_for_connections())
    if connections < gateway.max_connections:
        logger.warning(
            "ulimit -n (%d descriptors) leaves room for %d connections; max_connections is %d",
            descriptors.soft_limit(),
            connections,
            gateway.max_connections,
        )
    max_streams = min(gateway.max_streams, max(1, connections * 3 // 4))  # the rest is for short requests
    return gateway.model_copy(update={"max_connections": connections, "max_streams": max_streams})


async def _describe(
    manager: RunManager, settings: Settings, gateway: GatewaySettings, access: str, names: Sequence[str]
) -> Ready:
    """Describes this worker. `names` are assistants for the example, the most useful one first."""
    from coordinator.bootstrap import POSTGRES
    from coordinator.gateway.server.examples import example_for
    from coordinator.urls import redact_url

    return Ready(
        epoch=manager.worker.epoch,
        grace=manager.worker.grace,
        store=settings.shown_store,
        redis=redact_url(settings.redis) if settings.redis else None,
        notified=not settings.redis and settings.postgres_notify and settings.store.startswith(POSTGRES),
        keys=gateway.api_keys is not None,
        access=access,
        assistants=manager.assistants.names,
        example=await example_for(manager.assistants, names),
        pages=gateway.cors_origins,
        page=gateway.page is not None,
        admit_only=settings.admit_only,
    )


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
