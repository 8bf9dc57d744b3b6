"""Every setting, its default and its unit. Environment variables: COORDINATOR_ and the name."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from coordinator.urls import redact_url


class Settings(BaseSettings):
    """Times are seconds. `COORDINATOR_LEASE_TTL=20` sets `lease_ttl`; `none` takes a default away."""

    model_config = SettingsConfigDict(
        env_prefix="COORDINATOR_", frozen=True, extra="forbid", env_file=None, env_parse_none_str="none"
    )

    store: str = Field(
        default="sqlite:///runs.db",
        repr=False,  # as the other URLs: it may hold a password
        description="Store URL: memory://, sqlite:///path, postgresql://user@host,host/database",
    )
    redis: str | None = Field(default=None, repr=False, description="Redis URL; none = store-only mode")
    redis_credentials: str | None = Field(
        default=None,
        description="module:function that returns a credential provider, asked at each connect to Redis",
    )
    namespace: str = Field(
        default="rc", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Prefix of every Redis key"
    )

    sqlite_synchronous: Literal["FULL", "NORMAL"] = Field(
        default="FULL", description="FULL survives a power cut; NORMAL is the fast mode"
    )
    busy_timeout: float = Field(
        default=30.0, gt=0, description="How long a write may wait for a lock, or for a connection"
    )

    search_timeout: float = Field(
        default=2.0,
        gt=0,
        description="How long a search or a count of threads or crons may take; three times as long it waits"
        " for those of others",
    )

    max_values_bytes: int | None = Field(
        default=64 << 20,
        ge=1024,
        description="Largest values of a thread, as JSON; none = any",
    )

    postgres_schema: str = Field(
        default="coordinator",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="Schema of the database that holds the tables",
    )
    postgres_connections: int = Field(
        default=10,
        ge=1,
        description="Connections of a worker for writes that wait and for reads; it has up to 9 more",
    )
    postgres_statement_cache: int = Field(
        default=200,
        ge=0,
        description="Prepared statements a connection keeps; 0 behind a pooler in transaction mode",
    )
    postgres_host_gate: str = Field(
        default="auto",
        min_length=1,
        description="Folder of the file by which workers on one host prove that they live: auto = one of this"
        " user in the temporary directory; off = none, then a dead worker is found when its lease has ended",
    )
    postgres_away: float = Field(
        default=5.0, gt=0, description="How long a call looks for a server that is away"
    )
    postgres_notify: bool = Field(
        default=True, description="Without Redis, hints travel by LISTEN/NOTIFY; false = not at all"
    )
    postgres_notify_url: str | None = Field(
        default=None,
        repr=False,
        description="A direct connection for LISTEN, where the store's URL names a pooler",
    )

    tick: float = Field(default=1.0, gt=0, description="How often a worker looks for what no signal told it")
    short_tick: float = Field(default=0.5, gt=0, description="The tick while Redis is away or suspected")
    canary: float = Field(default=0.5, gt=0, description="How often a worker checks that it hears itself")
    renew: float = Field(default=5.0, gt=0, description="How often the lease is renewed")
    lease_ttl: float = Field(default=15.0, gt=0, description="How long a lease lasts")
    lease_margin: float = Field(
        default=3.0, ge=0, description="A worker fences itself this much before its lease ends"
    )
    sweep: float = Field(default=5.0, gt=0, description="How often the reaper looks for dead workers")
    jitter: float = Field(default=0.1, ge=0, le=0.5, description="Share by which every interval varies")
    stall_limit: float = Field(
        default=60.0,
        gt=0,
        description="How long the lease is renewed for an event loop that does not turn",
    )
    force_after: float = Field(
        default=10.0, gt=0, description="A task that ignores its cancel is settled by force"
    )
    restore_timeout: float = Field(
        default=30.0,
        gt=0,
        description="How long an attempt of a rollback may take (there are three), and forgetting its data",
    )
    threads: int = Field(
        default=64, ge=1, le=10_000, description="How many thread jobs of runs are at work at once"
    )
    grace: float = Field(default=30.0, ge=0, description="How long runs may go on at shutdown")
    run_timeout: float | None = Field(
        default=None, gt=0, description="How long a run may run, unless its admission says otherwise"
    )
    idle_timeout: float | None = Field(
        default=None, gt=0, description="How long a run may go without event, save or progress"
    )
    queue_timeout: float | None = Field(
        default=None, gt=0, description="How long a run may wait for its turn"
    )
    launch_timeout: float | None = Field(
        default=60.0,
        gt=0,
        description="How long a run may hold its thread before anything is done with it; none = for ever",
    )

    admission_budget: float = Field(default=0.25, gt=0, description="How long admission waits for Redis")
    admission_patience: float = Field(
        default=2.0, ge=0, description="How long an admission is tried again while the store is away"
    )
    max_waiting_per_thread: int | None = Field(
        default=1000, ge=0, description="Bound of a thread's waiting line"
    )
    max_waiting_per_user: int | None = Field(
        default=10_000, ge=0, description="Bound of a user's waiting runs; none = any number"
    )
    keep_finished: float = Field(default=300.0, ge=0, description="How long finished records stay in memory")
    keep_finished_max: int = Field(
        default=10_000, ge=0, description="How many finished records stay in memory"
    )
    keep_finished_bytes: int = Field(
        default=64 * 2**20,
        ge=0,
        description="How many bytes finished records may keep in memory, where the store is durable",
    )
    outbox_limit: int = Field(
        default=1000, ge=1, description="How many writes may wait for the store before admission stops"
    )

    keep_runs: float | None = Field(
        default=30 * 86_400.0,
        ge=0,
        description="How long runs are kept in the store after they settled; none = for ever. Never less than"
        " keep_finished",
    )
    keep_transitions: float | None = Field(
        default=None, ge=0, description="How long the audit is kept; none = as long as its run"
    )
    keep_workers: float | None = Field(
        default=7 * 86_400.0, ge=0, description="How long dead workers are kept; none = for ever"
    )
    keep_webhooks: float | None = Field(
        default=7 * 86_400.0,
        ge=0,
        description="How long webhooks are kept after they were delivered or given up; none = for ever",
    )
    keep_temporary: float = Field(
        default=5.0,
        ge=0,
        description="How long a temporary thread outlives its last run; the next sweep removes it",
    )
    prune: float = Field(default=3600.0, gt=0, description="How often what is older than that is removed")

    @model_validator(mode="after")
    def _rows_outlive_records(self) -> Self:
        if self.keep_runs is not None and self.keep_runs < self.keep_finished:
            raise ValueError(
                "keep_runs must not be less than keep_finished: a record in memory would write its row anew"
            )
        return self

    deliver_webhooks: bool = Field(
        default=False,
        description="This worker delivers webhooks, as every gateway does. Needs the extra [gateway]",
    )

    event_log: Literal["auto", "redis", "store", "memory"] = Field(
        default="auto",
        description="Who keeps the events of runs: redis, the store, or the memory of each run's worker,"
        " where no other can follow it; auto = redis where there is one, else the store",
    )
    event_budget: float = Field(
        default=0.25, gt=0, description="How long an emit waits for the log; then its event is appended later"
    )
    event_max_bytes: int = Field(
        default=1 << 20, ge=1, le=1 << 20, description="Largest event, in bytes of JSON"
    )
    event_log_max: int = Field(default=10_000, ge=1, description="How many events of a run are kept")
    event_log_max_bytes: int = Field(
        default=64 << 20, ge=1, description="How many bytes of a run's events are kept"
    )
    event_log_total_bytes: int = Field(
        default=1 << 30,
        ge=1,
        description="How many bytes of events the store keeps; then the logs that were silent for longest go",
    )
    event_log_ttl: float = Field(default=900.0, gt=0, description="How long a log outlives its last event")
    follow_buffer: int = Field(
        default=256, ge=1, le=10_000, description="How many events a follower reads ahead"
    )

    @property
    def shown_store(self) -> str:
        """The store's URL for people and logs."""
        local = self.store.startswith(("sqlite:///", "memory:"))
        return self.store if local else redact_url(self.store)

    @model_validator(mode="after")
    def _lease_outlives_renewal(self) -> Self:
        if self.lease_ttl - self.lease_margin <= self.renew:
            raise ValueError(
                "lease_ttl - lease_margin must be greater than renew, or every hiccup fences the worker"
            )
        return self


def broken_rule(kind: type[BaseSettings], error: ValidationError) -> tuple[str, list[str]] | None:
    """The rule that several settings break together, and their names in its order; None where one setting is
    wrong by itself."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["loc"]:
        return None
    rule = first["msg"].removeprefix("Value error, ")
    named = (name for name in re.findall(r"\w+", rule) if name in kind.model_fields)
    return rule, list(dict.fromkeys(named))
