"""Builds a RunSpec from the arguments of a caller. Each is validated here, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator import arguments as check
from coordinator.assistants.ports import Assistant
from coordinator.errors import InvalidArgument
from coordinator.runs.limits import NO_LIMITS, TimeLimits
from coordinator.runs.users import document_of
from coordinator.schemas import RunRequest, User
from coordinator.settings import Settings
from stores.json_values import JsonObject
from stores.pruning import KEYS_KEPT
from stores.spec import ROLES, Kind, RunSpec, default_of
from stores.sql.codec import as_stored

Check = Callable[[str, object], Any]  # Any: the checked value, of the field's type


def spec_of(
    *, thread_id: object, limits: TimeLimits = NO_LIMITS, after_seconds: object = None, **fields: object
) -> RunSpec:
    """Returns the validated spec. `fields`: by the names of RunSpec. Raises InvalidArgument,
    UnsupportedStrategyError; TypeError for a name that RunSpec does not have."""
    try:
        # A value that is the default needs no check, and most are.
        given = [(name, value) for name, value in fields.items() if value is not _DEFAULTS[name]]
    except KeyError as unknown:
        raise TypeError(f"got an unexpected keyword argument {unknown}") from None
    values = {name: _CHECKS[name](name, value) for name, value in given}
    return RunSpec(
        thread_id=check.check_id("thread_id", thread_id),
        timeout_ms=_millis(limits.timeout),
        idle_timeout_ms=_millis(limits.idle),
        queue_timeout_ms=_millis(limits.queue),
        delay_ms=_millis(check.check_delay("after_seconds", after_seconds)),
        **values,
    )


class SpecFactory:
    """Builds specs with the settings of a manager. `check_webhook` returns the validated URL of a webhook.
    `temporary_ms`: time to live of temporary threads."""

    def __init__(
        self, settings: Settings, *, temporary_ms: int, check_webhook: Callable[[str | None], str | None]
    ) -> None:
        self._settings, self._temporary_ms, self._check_webhook = settings, temporary_ms, check_webhook

    def build(
        self,
        thread_id: str,
        assistant_id: str | None,
        *,
        temporary_thread: bool = False,
        timeout: check.TimeLimit = "default",
        idle_timeout: check.TimeLimit = "default",
        queue_timeout: check.TimeLimit = "default",
        webhook: str | None = None,
        user: User | None = None,
        **fields: Any,  # Any: by the names of RunSpec, which are checked
    ) -> RunSpec:
        """Returns the validated spec. `fields`: as those of `spec_of`. Raises InvalidArgument,
        UnsupportedStrategyError."""
        if user is not None:
            if fields.get("user_id") not in (None, check.check_instance("user", user, User).user_id):
                raise InvalidArgument("user", "is another one than user_id")
            fields |= {"user_id": user.user_id, "user_document": document_of(user)}
        temporary, settings = check.check_flag("temporary_thread", temporary_thread), self._settings
        limits = TimeLimits(
            check.check_time_limit("timeout", timeout, settings.run_timeout),
            check.check_time_limit("idle_timeout", idle_timeout, settings.idle_timeout),
            check.check_time_limit("queue_timeout", queue_timeout, settings.queue_timeout),
        )
        return spec_of(
            thread_id=thread_id,
            assistant_id=assistant_id,
            limits=limits,
            temporary_ms=self._time_to_live(fields.get("idempotency_key")) if temporary else None,
            webhook=self._check_webhook(webhook),
            **fields,
        )

    def _time_to_live(self, idempotency_key: object) -> int:
        """Returns the time to live (ms) of a temporary thread. It is removed with its run, which a repeated
        key has to find."""
        return (
            self._temporary_ms
            if idempotency_key is None
            else max(self._temporary_ms, round(KEYS_KEPT * 1000))
        )


def limits_in(spec: RunSpec) -> TimeLimits:
    return TimeLimits(seconds(spec.timeout_ms), seconds(spec.idle_timeout_ms), seconds(spec.queue_timeout_ms))


def seconds(millis: int | None) -> float | None:
    return None if millis is None else millis / 1000


def _millis(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1000))


def _as_it_is(_: str, value: object) -> object:
    """For values of the program itself, or validated before."""
    return value


def _kwargs(name: str, value: object) -> JsonObject:
    return as_stored(check.check_mapping(name, value))


def _strategy(_: str, value: object) -> str:
    return check.check_strategy(value).value


def _disconnect(_: str, value: object) -> str:
    return check.check_disconnect(value).value


_BY_KIND: dict[Kind, Check] = {
    Kind.id: check.check_optional_id,
    Kind.text: check.check_text,
    Kind.json: lambda name, value: check.check_metadata(value, name),
    Kind.opaque_json: _kwargs,
    Kind.flag: check.check_flag,
}
_CHECKS: dict[str, Check] = {
    **{name: _BY_KIND.get(role.kind, _as_it_is) for name, role in ROLES.items()},
    "kind": _as_it_is,
    "user_document": _as_it_is,
    "extra": lambda _, value: check.check_extra(value),
    "webhook": _as_it_is,
    "multitask_strategy": _strategy,
    "on_disconnect": _disconnect,
    "model_name": lambda _, value: check.check_model_name(value),
}
_DEFAULTS = {name: None if (default := default_of(name)) == {} else default for name in ROLES}
"""The value that callers pass for a field which they leave out: its default, or None for an empty object."""


def check_takes(assistant: Assistant, spec: RunSpec) -> None:
    """Raises InvalidArgument, also of the assistant, if the spec is no request for it."""
    try:
        request = RunRequest.of(spec.kwargs, spec.metadata)
    except TypeError as error:
        raise InvalidArgument("kwargs", f"are no request of a run: {error}") from None
    assistant.validate(request)
