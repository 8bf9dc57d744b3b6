"""The dependencies of route functions, injected as `ServicesIn`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from coordinator.gateway.long_lived_responses import Watchers
from coordinator.gateway.metrics import Metrics
from coordinator.gateway.settings import GatewaySettings
from coordinator.langgraph.extension import Extension
from coordinator.manager import RunManager
from coordinator.runs.jobs import Jobs
from coordinator.webhooks.targets import Targets


@dataclass(frozen=True, slots=True)
class Services:
    """The objects that all requests of one app share."""

    manager: RunManager
    settings: GatewaySettings
    watchers: Watchers
    metrics: Metrics
    jobs: Jobs
    """Work that continues after the response to a request."""
    targets: Targets
    """Validates the URLs of webhooks: `targets.parse(url)` before a run with a webhook is admitted."""
    extension: Extension
    """What a configuration adds to the gateway."""


async def services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


ServicesIn = Annotated[Services, Depends(services)]
