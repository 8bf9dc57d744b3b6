"""The statements of clients' operations, for `stores.client_transactions`; see `stores.sql.statements`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stores.assistants import AssistantQuery, AssistantRow
from stores.crons import CronQuery, CronRow, DueCrons, Firing
from stores.pages import Page
from stores.projections import FailedChange, RunChange
from stores.sql.statement import statement
from stores.webhooks import ClaimedWebhook, Shares, WebhookReport


class AssistantStatements(Protocol):
    @statement
    @staticmethod
    def create(now: int, assistant: AssistantRow) -> AssistantRow | None: ...
    @statement
    @staticmethod
    def change(now: int, assistant: AssistantRow, user_id: str | None) -> AssistantRow | None: ...
    @statement
    @staticmethod
    def set_version(
        now: int, assistant_id: str, version: int, user_id: str | None
    ) -> AssistantRow | None: ...
    @statement
    @staticmethod
    def delete(now: int, assistant_id: str, user_id: str | None) -> bool: ...
    @statement
    @staticmethod
    def listed(query: AssistantQuery, user_id: str | None) -> Page[AssistantRow]: ...
    @statement
    @staticmethod
    def count(query: AssistantQuery, user_id: str | None) -> int: ...
    @statement
    @staticmethod
    def versions(assistant_id: str, query: AssistantQuery, user_id: str | None) -> Page[AssistantRow]: ...


class CronStatements(Protocol):
    @statement
    @staticmethod
    def create(now: int, cron: CronRow, *, thread_must_exist: bool, limit: int | None) -> CronRow: ...
    @statement
    @staticmethod
    def replace(now: int, cron: CronRow, user_id: str | None) -> CronRow | None: ...
    @statement
    @staticmethod
    def delete(now: int, cron_id: str, user_id: str | None) -> bool: ...
    @statement
    @staticmethod
    def listed(query: CronQuery, user_id: str | None) -> Page[CronRow]: ...
    @statement
    @staticmethod
    def count(query: CronQuery, user_id: str | None) -> int: ...
    @statement
    @staticmethod
    def next_due(assistants: Sequence[str], now: int) -> float | None: ...
    @statement
    @staticmethod
    def due(assistants: Sequence[str], limit: int, now: int) -> DueCrons: ...
    @statement
    @staticmethod
    def skip(now: int, firing: Firing, error: str | None) -> bool: ...


class ProjectionStatements(Protocol):
    @statement
    @staticmethod
    def add(now: int, name: str) -> None: ...
    @statement
    @staticmethod
    def remove(now: int, name: str) -> bool: ...
    @statement
    @staticmethod
    def next_due(name: str, now: int) -> float | None: ...
    @statement
    @staticmethod
    def claim(now: int, name: str, epoch: int, lease: int, *, limit: int) -> list[RunChange] | None: ...
    @statement
    @staticmethod
    def report(
        now: int, name: str, epoch: int, delivered: Sequence[int], *, failed: Sequence[FailedChange]
    ) -> None: ...


class WebhookStatements(Protocol):
    @statement
    @staticmethod
    def next_due(now: int) -> float | None: ...
    @statement
    @staticmethod
    def claim(
        now: int, epoch: int, lease: int, limit: int, *, shares: Shares | None
    ) -> list[ClaimedWebhook]: ...
    @statement
    @staticmethod
    def report(now: int, run_id: str, attempt: int, result: WebhookReport) -> bool: ...
    @statement
    @staticmethod
    def revive(now: int, run_ids: Sequence[str] | None, user_id: str | None) -> list[str]: ...
    @statement
    @staticmethod
    def stop(now: int, run_ids: Sequence[str] | None, user_id: str | None) -> list[str]: ...
