"""Settings of the gateway with defaults and units. Environment variables are COORDINATOR_ and the name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from coordinator.gateway.middleware.origins import Pages
from coordinator.gateway.middleware.proxies import Proxies
from coordinator.webhooks.settings import WebhookSettings


def _split(value: object) -> object:
    """Splits `a, b` of an environment variable or an option."""
    if isinstance(value, str):
        return tuple(part for item in value.split(",") if (part := item.strip()))
    return value


def _check_filled(value: object) -> object:
    """An empty path would be the working folder."""
    if value == "":
        raise ValueError("must not be empty")
    return value


FilledPath = Annotated[Path, BeforeValidator(_check_filled)]
CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class GatewaySettings(WebhookSettings):
    """Times are in seconds, sizes in bytes. The settings of workers are in `coordinator.settings`."""

    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: int = Field(default=2024, ge=0, le=65535, description="Port to listen on; 0 = any free one")
    workers: int = Field(default=1, ge=1, le=256, description="How many processes share the port")
    log_format: Literal["text", "json"] = Field(default="text", description="Log lines as text or JSON")

    access_log: bool = Field(default=True, description="A log line for each request, and WebSocket")

    log_runs: bool = Field(default=False, description="A log line when a run starts and when it ends")

    demo_assistant: bool | None = Field(
        default=None, description="Offer the demo assistant `agent`; none = if there is no other assistant"
    )

    heartbeat: float = Field(
        default=5.0, gt=0, description="Interval of heartbeats in streams and long responses"
    )
    max_connections: int = Field(
        default=4096,
        ge=1,
        description="Largest number of open connections of a worker; fewer if its descriptors (ulimit -n)"
        " allow fewer",
    )
    max_body_bytes: int = Field(default=4 << 20, ge=1024, description="Largest request body")
    max_metadata_bytes: int = Field(
        default=64 << 10, ge=2, description="Largest metadata of a thread or a run, as JSON"
    )
    max_page_bytes: int = Field(
        default=16 << 20,
        ge=1024,
        description="Largest page of a list; a page contains at least one item",
    )
    max_streams: int = Field(
        default=2000, ge=1, description="Largest number of open streams and long responses of a worker"
    )
    max_streams_per_user: int | None = Field(
        default=None, ge=1, description="The same for one user; none = a quarter of max_streams"
    )
    rate_limit: float | None = Field(
        default=None,
        gt=0,
        description="Requests per second that a worker accepts from one caller; none = any",
    )

    max_crons_per_user: int | None = Field(
        default=100, ge=0, description="Largest number of crons of one user; none = any"
    )
    cron_poll: float = Field(
        default=5.0, gt=0, description="Interval at which a worker polls for crons that other workers changed"
    )

    api_keys: FilledPath | None = Field(
        default=None, description="File with the hashes of the API keys; none = loopback only"
    )
    allowed_hosts: CommaSeparated = Field(
        default=(),
        description="Host names that requests may be for, besides localhost and the address of `host`:"
        " comma-separated; *.example.com = all subdomains; * = any",
    )
    trusted_proxies: CommaSeparated = Field(
        default=(),
        description="Addresses and networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are"
        " trusted: comma-separated, e.g. 10.0.0.7, 172.16.0.0/12",
    )
    cors_origins: CommaSeparated = Field(
        default=(),
        description="Origins of web pages that may call, e.g. https://app.example.com: comma-separated;"
        " http://localhost:* = any port; * = any",
    )
    page: FilledPath | None = Field(
        default=None,
        description="Folder of a web page, with an index.html, that is served at /page/ without a key",
    )

    @property
    def streams_per_user(self) -> int:
        return self.max_streams_per_user or max(1, self.max_streams // 4)

    @field_validator("trusted_proxies")
    @classmethod
    def _validate_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Proxies(value)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _validate_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Pages(value)
        return value
