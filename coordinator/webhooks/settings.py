"""Settings of the delivery of webhooks. Environment variables: COORDINATOR_ and the name."""

from __future__ import annotations

import json
import os
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from coordinator.settings import EnvironmentSettings, Settings
from coordinator.variables import settings_of, warn_of_unknown
from coordinator.webhooks.signing import Signer
from stores.json_values import JsonObject


def _decoded(value: object) -> object:
    """Decodes the JSON of an environment variable here, where an error names the setting."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("must be a list of numbers, e.g. [443, 8443]") from None


class WebhookSettings(EnvironmentSettings):
    """Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="COORDINATOR_", frozen=True, extra="forbid", env_file=None)

    webhook_allow_private: bool = Field(
        default=False,
        description="Webhooks may go to http, loopback and private addresses. For development",
    )
    webhook_ports: Annotated[tuple[int, ...], NoDecode, BeforeValidator(_decoded)] = Field(
        default=(443, 8443), description="Ports that webhooks may go to; any with webhook_allow_private"
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        description="Signs webhooks: whsec_ and base64, or text; several, with blanks between, all sign",
    )
    webhook_timeout: float = Field(
        default=15.0, gt=0, le=300, description="How long one attempt may take, from look-up to answer"
    )
    webhook_attempts: int = Field(
        default=12, ge=1, le=100, description="How often a webhook is tried before it is given up"
    )
    webhook_backoff: float = Field(
        default=5.0, gt=0, description="How long after the first failure it is tried again; doubles each time"
    )
    webhook_backoff_max: float = Field(
        default=3600.0, gt=0, description="The longest time between two attempts"
    )
    webhook_concurrency: int = Field(
        default=16, ge=1, le=1000, description="How many attempts of a worker go on at once"
    )
    webhook_per_user: int | None = Field(
        default=None, ge=1, description="How many of them are for one user; none = a quarter"
    )
    webhook_per_receiver: int = Field(
        default=4,
        ge=1,
        le=1000,
        description="How many of them go to one receiver that does not answer within a second; of one user's"
        " at most half",
    )
    webhook_poll: float = Field(default=1.0, gt=0, description="How often a worker polls for due webhooks")

    @property
    def webhooks_of_a_user(self) -> int:
        return self.webhook_per_user or max(1, self.webhook_concurrency // 4)

    @model_validator(mode="after")
    def _secret_is_valid(self) -> Self:
        Signer.of(self.webhook_secret)
        return self


_ARGUMENTS = ("redis_credentials", "hooks", "assistants", "projections", "manager_class")
"""The arguments of `open_coordinator` that are no settings."""

_PREFIX = "webhook_"
"""Begins the names of the fields of `WebhookSettings`, and of no field of `Settings`."""


def settings_in_code(
    settings: Settings | None, overrides: JsonObject
) -> tuple[Settings, WebhookSettings | None]:
    """The settings of a worker, and those of its deliverer if it has one: from `overrides`, then from
    `settings`, then from variables. Raises InvalidArgument."""
    of_webhooks = {name: value for name, value in overrides.items() if name.startswith(_PREFIX)}
    own = {name: value for name, value in overrides.items() if name not in of_webhooks}
    if settings is None:
        warn_of_unknown(os.environ, (*Settings.model_fields, *WebhookSettings.model_fields))
        settings = settings_of(Settings, own, others=_ARGUMENTS)
    elif own:
        settings = settings_of(type(settings), {**dict(settings), **own}, others=_ARGUMENTS)
    if settings.deliver_webhooks or of_webhooks:
        return settings, settings_of(WebhookSettings, of_webhooks)
    return settings, None
