"""Gateways in this process, and clients for them as browsers and programs are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from coordinator import RunManager
from coordinator.assistants.demo import agent
from coordinator.gateway import Gateway, GatewaySettings, create_gateway, key_file
from coordinator.gateway.caller import Authenticate, Role
from coordinator.langgraph.extension import NO_EXTENSION, Extension
from coordinator.settings import Settings

BASE = "http://localhost:2024"


@asynccontextmanager
async def serving(
    *,
    manager: RunManager | None = None,
    authenticate: Authenticate | None = None,
    extension: Extension = NO_EXTENSION,
    headers: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncGenerator[tuple[Gateway, httpx.AsyncClient]]:
    """A gateway on a manager in memory that is open, with the demo assistant, and a client of it.

    A client that carries no key is refused nothing unless the settings name a file of keys."""
    gateway = create_gateway(
        manager or RunManager(settings=Settings(tick=0.05, grace=0)),
        {"agent": agent},
        settings=GatewaySettings(**settings),
        authenticate=authenticate,
        extension=extension,
    )
    transport = httpx.ASGITransport(gateway, raise_app_exceptions=False)
    async with (
        gateway.running(),
        httpx.AsyncClient(transport=transport, base_url=BASE, headers=dict(headers or {})) as client,
    ):
        yield gateway, client


def key_for(path: Path, role: Role, user_id: str | None = None) -> dict[str, str]:
    """A new key in the file, as headers."""
    _, text = key_file.create(path, role=role, user_id=user_id)
    return {"x-api-key": text}
