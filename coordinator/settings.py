"""All settings with default and unit. Environment variables are named COORDINATOR_ and the setting in
capitals."""

from __future__ import annotations

import os
import re
from collections.abc import Container
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from coordinator.urls import redact_url


class EnvironmentSettings(BaseSettings):
    """Settings from arguments and environment variables; from a file too if the caller names one."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - as pydantic_settings calls it
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leaves out the source without a file: it takes as long (1 ms) as that of the environment."""
        sources = (init_settings, env_settings, dotenv_settings, file_secret_settings)
        return tuple(
            source
            for source in sources
            if not isinstance(source, DotEnvSettingsSource) or source.env_file is not None
        )


class Settings(EnvironmentSettings):
    """Times are in seconds. `COORDINATOR_LEASE_TTL=20` sets `lease_ttl`; the value `none` removes a
    default."""

    model_config = SettingsConfigDict(
        env_prefix="COORDINATOR_", frozen=True, extra="forbid", env_file=None, env_parse_none_str="none"
    )

    store: str = Field(
        default="sqlite:///runs.db",
        repr=False,  # as for all URLs: they may contain a password
        description="Store URL: memory://, sqlite:///path, postgresql://user@host,host/database",
    )
    redis: str | None = Field(default=None, repr=False, description="Redis URL; none = store-only mode")
    redis_credentials: str | None = Field(
        default=None,
        description="module:function that returns a credential provider, called at each connect to Redis",
    )
    namespace: str = Field(
        default="rc", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Prefix of every Redis key"
    )

    sqlite_synchronous: Literal["FULL", "NORMAL"] = Field(
        default="FULL", description="FULL survives a power cut; NORMAL is the fast mode"
    )
    busy_timeout: float = Field(
        default=30.0, gt=0, description="Maximum time a write waits for a lock or a connection"
    )

    search_timeout: float = Field(
        default=2.0,
        gt=0,
        description="Maximum time of a search or count of threads or crons; it waits up to three times as"
        " long"
        " for its turn",
    )

    max_values_bytes: int | None = Field(
        default=64 << 20,
        ge=1024,
        description="Maximum size of a thread's values, in bytes of JSON; none = unlimited",
    )
    state_copy_bytes: int = Field(
        default=16 << 10,
        ge=0,
        description="Values up to this size (bytes in memory, estimated) are copied into the store if their"
        " assistant has a storage of its own (feature `state`); larger ones are read from there",
    )

    postgres_schema: str = Field(
        default="coordinator",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="Database schema of the tables",
    )
    postgres_connections: int = Field(
        default=10,
        ge=1,
        description="Connections per worker for blocking writes and reads; up to 9 more are used for other"
        " work",
    )
    postgres_statement_cache: int = Field(
        default=200,
        ge=0,
        description="Prepared statements cached per connection; 0 behind a pooler in transaction mode",
    )
    postgres_host_gate: str = Field(
        default="auto",
        min_length=1,
        description="Folder of the lock file by which workers of one host prove that they are alive: auto = a"
        " folder of this user in the temporary directory; off = none: a dead worker is detected when its"
        " lease"
        " expires",
    )
    postgres_away: float = Field(
        default=5.0, gt=0, description="How long a call retries while the server is unreachable"
    )
    postgres_notify: bool = Field(
        default=True, description="Without Redis, publish hints by LISTEN/NOTIFY; false = no hints"
    )
    postgres_notify_url: str | None = Field(
        default=None,
        repr=False,
        description="URL of a direct connection for LISTEN, if the store's URL names a pooler",
    )

    tick: float = Field(
        default=1.0, gt=0, description="Interval at which a worker polls for changes without a signal"
    )
    short_tick: float = Field(
        default=0.5, gt=0, description="The tick while Redis is unreachable or suspected"
    )
    canary: float = Field(
        default=0.5, gt=0, description="Interval of the check that published signals arrive"
    )
    renew: float = Field(default=5.0, gt=0, description="Interval of lease renewal")
    lease_ttl: float = Field(default=15.0, gt=0, description="Duration of a lease")
    lease_margin: float = Field(
        default=3.0, ge=0, description="A worker fences itself this long before its lease expires"
    )
    sweep: float = Field(
        default=5.0, gt=0, description="Interval at which the reaper checks for dead workers"
    )
    jitter: float = Field(
        default=0.1, ge=0, le=0.5, description="Fraction by which every interval is randomised"
    )
    stall_limit: float = Field(
        default=60.0,
        gt=0,
        description="How long the lease is renewed while the event loop is blocked",
    )
    force_after: float = Field(
        default=10.0, gt=0, description="Time after which a task that ignores its cancel is settled by force"
    )
    restore_timeout: float = Field(
        default=30.0,
        gt=0,
        description="Timeout of each of the three attempts of a rollback, and of removing its undo data",
    )
    threads: int = Field(
        default=64, ge=1, le=10_000, description="Maximum number of concurrent thread jobs of runs"
    )
    grace: float = Field(default=30.0, ge=0, description="How long runs may continue at shutdown")
    run_timeout: float | None = Field(
        default=None, gt=0, description="Maximum execution time of a run, unless set at admission"
    )
    idle_timeout: float | None = Field(
        default=None,
        gt=0,
        description="Maximum time of a run without event, save, step of a graph or progress",
    )
    queue_timeout: float | None = Field(default=None, gt=0, description="Maximum time of a run in the queue")
    launch_timeout: float | None = Field(
        default=60.0,
        gt=0,
        description="Maximum time an admitted run may hold its thread before it is started; none = unlimited",
    )

    admission_budget: float = Field(
        default=0.25, gt=0, description="Maximum time an admission waits for Redis"
    )
    admission_patience: float = Field(
        default=2.0, ge=0, description="How long an admission is retried while the store is unreachable"
    )
    admit_only: bool = Field(
        default=False,
        description="Admit runs of registered assistants, and execute none: other workers do",
    )
    max_running: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of runs that one worker executes at the same time; further ones wait",
    )
    max_running_per_assistant: int | None = Field(
        default=None, ge=1, description="The same, of each assistant"
    )
    max_running_per_user: int | None = Field(default=None, ge=1, description="The same, of each user")
    max_waiting_per_thread: int | None = Field(
        default=1000, ge=0, description="Maximum number of queued runs of a thread"
    )
    max_waiting_per_user: int | None = Field(
        default=10_000, ge=0, description="Maximum number of queued runs of a user; none = unlimited"
    )
    keep_finished: float = Field(
        default=300.0, ge=0, description="How long finished records are kept in memory"
    )
    keep_finished_max: int = Field(
        default=10_000, ge=0, description="Maximum number of finished records in memory"
    )
    keep_finished_bytes: int = Field(
        default=64 * 2**20,
        ge=0,
        description="Maximum size of finished records in memory, in bytes; applies if the store is durable",
    )
    outbox_limit: int = Field(
        default=1000, ge=1, description="Maximum number of pending writes; beyond it admission stops"
    )

    keep_runs: float | None = Field(
        default=30 * 86_400.0,
        ge=0,
        description="How long runs are kept in the store after they settled; none = forever. Must not be less"
        " than keep_finished",
    )
    keep_transitions: float | None = Field(
        default=None, ge=0, description="How long transitions are kept; none = as long as the run"
    )
    keep_workers: float | None = Field(
        default=7 * 86_400.0, ge=0, description="How long dead workers are kept; none = forever"
    )
    keep_webhooks: float | None = Field(
        default=7 * 86_400.0,
        ge=0,
        description="How long webhooks are kept after they were delivered or given up; none = forever",
    )
    keep_temporary: float = Field(
        default=5.0,
        ge=0,
        description="How long a temporary thread is kept after its last run; the next sweep removes it",
    )
    prune: float = Field(default=3600.0, gt=0, description="Interval of pruning")

    @model_validator(mode="after")
    def _rows_outlive_records(self) -> Self:
        if self.keep_runs is not None and self.keep_runs < self.keep_finished:
            raise ValueError(
                "keep_runs must not be less than keep_finished: a record in memory could recreate its row"
            )
        return self

    deliver_webhooks: bool = Field(
        default=False,
        description="Deliver webhooks from this worker, as every gateway does. Requires the extra [gateway]",
    )

    event_log: Literal["auto", "redis", "store", "memory"] = Field(
        default="auto",
        description="Where events of runs are kept: redis, store, or memory of the run's worker (other"
        " workers"
        " cannot follow it then); auto = redis if configured, else the store",
    )
    event_budget: float = Field(
        default=0.25,
        gt=0,
        description="How long an emit waits for the log; after that the event is appended later",
    )
    event_max_bytes: int = Field(
        default=8 << 20,
        ge=1,
        le=8 << 20,
        description="Maximum size of an event, in bytes of JSON; a larger one is replaced by `omitted`",
    )
    event_log_max: int = Field(default=10_000, ge=1, description="Maximum number of events kept per run")
    event_log_max_bytes: int = Field(
        default=64 << 20, ge=1, description="Maximum size of the events kept per run, in bytes"
    )
    event_log_total_bytes: int = Field(
        default=1 << 30,
        ge=1,
        description="Maximum size of all events in the store, in bytes; the logs with the oldest last event"
        " are removed first",
    )
    event_log_ttl: float = Field(
        default=900.0, gt=0, description="How long a log is kept after its last event"
    )
    follow_buffer: int = Field(
        default=256, ge=1, le=10_000, description="Maximum number of events a follower reads ahead"
    )

    @property
    def shown_store(self) -> str:
        """The store's URL without password, for output and logs."""
        local = self.store.startswith(("sqlite:///", "memory:"))
        return self.store if local else redact_url(self.store)

    @model_validator(mode="after")
    def _lease_outlives_renewal(self) -> Self:
        if self.lease_ttl - self.lease_margin <= self.renew:
            raise ValueError(
                "lease_ttl - lease_margin must be greater than renew, or a single delayed renewal fences the"
                " worker"
            )
        return self


def empty_variable(kind: type[BaseSettings], name: str, arguments: Container[str]) -> tuple[str, str] | None:
    """Return the fault and the remedy if `name` is invalid because its environment variable is empty; None
    if it is not. `arguments`: names of the settings that were given otherwise."""
    variable, field = f"COORDINATOR_{name.upper()}", kind.model_fields.get(name)
    if field is None or name in arguments or os.environ.get(variable) != "":
        return None
    default = "none" if field.default is None else field.default
    return f"{variable} is empty", f"Set it, or unset it: the default is {default}"


def broken_rule(kind: type[BaseSettings], error: ValidationError) -> tuple[str, list[str]] | None:
    """Return the rule between several settings that is violated, and their names in the order of the rule;
    None if a single setting is invalid."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["loc"]:
        return None
    rule = first["msg"].removeprefix("Value error, ")
    named = (name for name in re.findall(r"\w+", rule) if name in kind.model_fields)
    return rule, list(dict.fromkeys(named))
