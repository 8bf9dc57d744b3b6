"""Settings by the names that users write: keyword arguments and environment variables, also mistyped ones."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Collection, Iterable
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsError

from coordinator.errors import InvalidArgument
from coordinator.settings import broken_rule
from stores.json_values import JsonObject

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=BaseSettings)

PREFIX = "COORDINATOR_"
_NOT_OURS = ("COORDINATOR_TEST_", "COORDINATOR_BENCH_")
"""Prefixes that tests and benchmarks use."""

OF_GATEWAY = frozenset(
    {
        *("host", "port", "workers", "log_format", "access_log", "log_runs", "demo_assistant", "heartbeat"),
        *("max_connections", "max_body_bytes", "max_metadata_bytes", "max_page_bytes", "max_streams"),
        *("max_streams_per_user", "rate_limit", "max_crons_per_user", "cron_poll", "api_keys"),
        *("allowed_hosts", "trusted_proxies", "cors_origins", "page"),
    }
)
"""The settings of the gateway, which modules below it cannot import. A worker without a gateway often has the
variables of the whole deployment."""

_LIST = "docs/guides/settings.md lists all settings"

_warned = set[str]()


def warn_of_unknown(names: Iterable[str], known: Iterable[str]) -> None:
    """Logs a warning for each of the variables `names` that no setting of `known` or of the gateway has, once
    in a process. Values are never logged: they may be secret."""
    variables = [f"{PREFIX}{name.upper()}" for name in (*known, *sorted(OF_GATEWAY))]
    for name in sorted(names):
        if not name.startswith(PREFIX) or name in variables or name.startswith(_NOT_OURS) or name in _warned:
            continue
        _warned.add(name)
        logger.warning(
            "variable %s is not a setting and has no effect: %s", name, _suggestion(name, variables) or _LIST
        )


def settings_of(kind: type[S], values: JsonObject, *, others: Collection[str] = ()) -> S:
    """Settings from `values` and, for the rest, from variables. `others`: names that the caller accepts
    beside them. Raises InvalidArgument, which names the setting."""
    for name in values:
        if name in OF_GATEWAY:
            raise InvalidArgument(
                name,
                f"is a setting of the gateway: pass it to create_gateway in GatewaySettings, or set"
                f" {PREFIX}{name.upper()}",
            )
        if name not in kind.model_fields:
            hint = _suggestion(name, (*kind.model_fields, *others)) or _LIST
            raise InvalidArgument(name, f"is not a setting: {hint}")
    try:
        return kind(**values)
    except ValidationError as error:
        raise _refused(kind, values, error) from None
    except SettingsError as error:
        field = re.search(r'field "(\w+)"', str(error))
        variable = f"{PREFIX}{field[1].upper()}" if field else "a variable"
        raise InvalidArgument(field[1] if field else "settings", f"{variable} is not valid JSON") from None


def _refused(kind: type[S], values: Collection[str], error: ValidationError) -> InvalidArgument:
    if (broken := broken_rule(kind, error)) is not None:
        rule, names = broken
        return InvalidArgument(", ".join(names or values) or "settings", rule)
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0])
    source = "" if name in values else f" (variable {PREFIX}{name.upper()})"
    return InvalidArgument(".".join(map(str, first["loc"])), f"{first['msg']}{source}")


def _suggestion(name: str, known: Iterable[str]) -> str | None:
    similar = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {similar[0]}?" if similar else None
