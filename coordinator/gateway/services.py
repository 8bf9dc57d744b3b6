"""What route functions work with. Requests get at it through `ServicesIn`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from coordinator.gateway.held import Watchers
from coordinator.gateway.metrics import Metrics
from coordinator.gateway.settings import GatewaySettings
from coordinator.manager import RunManager
from coordinator.runs.jobs import Jobs
from coordinator.webhooks.targets import Targets


@dataclass(frozen=True, slots=True)
class Services:
    """One for each app: the same objects for all of its requests."""

    manager: RunManager
    settings: GatewaySettings
    watchers: Watchers
    metrics: Metrics
    jobs: Jobs
    """What goes on after a request was answered."""
    targets: Targets
    """Where webhooks may go: `targets.parse(url)` before a run that names one is admitted."""


async def services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


ServicesIn = Annotated[Services, Depends(services)]
