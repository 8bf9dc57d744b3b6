"""From the keys `auth`, `http` and `webhooks` of a `langgraph.json` to what they add to a gateway."""

from __future__ import annotations

import os
import re

from coordinator.errors import InvalidArgument
from coordinator.langgraph.config import Configuration, CorsSpec
from coordinator.langgraph.extension import NO_CORS, NO_HEADERS, Cors, Extension, HeaderPatterns
from coordinator.langgraph.importing import object_at
from coordinator.webhooks.document import FIELDS
from coordinator.webhooks.policy import WebhookPolicy

_KINDS = ("assistants", "meta", "runs", "store", "threads")
_TEMPLATE = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "content-type",
        "host",
        "transfer-encoding",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
    }
)
"""Headers of a webhook that a configuration must not replace."""


def extension_of(configuration: Configuration) -> Extension:
    """Imports the objects that the keys name. The variables of the key env must be set. Raises
    InvalidArgument."""
    content = configuration.content
    auth, http = content.auth, content.http
    handlers = None
    if auth.path is not None:
        from coordinator.langgraph.auth import AuthHandlers  # noqa: PLC0415 - langgraph_sdk is slow to import

        field = configuration.field("auth.path")
        handlers = AuthHandlers(object_at(auth.path, configuration.folder, field), field, auth.timeout)
    app = None
    if http.app is not None:
        app = object_at(http.app, configuration.folder, configuration.field("http.app"))
    headers = http.configurable_headers
    return Extension(
        handlers=handlers,
        app=app,
        app_after_authentication=http.middleware_order == "auth_first",
        app_needs_caller=http.enable_custom_route_auth,
        mount_prefix=http.mount_prefix or "",
        disabled=frozenset(kind for kind in _KINDS if getattr(http, f"disable_{kind}")),
        cors=_cors(configuration, http.cors),
        configurable=NO_HEADERS
        if headers is None
        else HeaderPatterns(tuple(headers.includes), tuple(headers.excludes)),
        webhooks=_webhooks(configuration),
    )


def _cors(configuration: Configuration, spec: CorsSpec | None) -> Cors:
    if spec is None:
        return NO_CORS
    if spec.allow_origin_regex is not None:
        try:
            re.compile(spec.allow_origin_regex)
        except re.error as error:
            raise InvalidArgument(
                configuration.field("http.cors.allow_origin_regex"), f"is no regular expression: {error}"
            ) from None
    return Cors(
        tuple(spec.allow_origins),
        spec.allow_origin_regex,
        None if spec.allow_methods is None else tuple(spec.allow_methods),
        None if spec.allow_headers is None else tuple(spec.allow_headers),
        tuple(spec.expose_headers),
        spec.allow_credentials,
        spec.max_age,
    )


def _webhooks(configuration: Configuration) -> WebhookPolicy:
    spec = configuration.content.webhooks
    if unknown := set(spec.allowed_fields or ()) - FIELDS:
        raise InvalidArgument(
            configuration.field("webhooks.allowed_fields"),
            f"has {', '.join(sorted(unknown))}; there are {', '.join(sorted(FIELDS))}",
        )
    return WebhookPolicy(
        https=spec.url.require_https,
        domains=tuple(domain.strip().lower().removesuffix(".") for domain in spec.url.allowed_domains),
        ports=frozenset(spec.url.allowed_ports),
        max_url_length=spec.url.max_url_length,
        without_loopback=spec.url.disable_loopback,
        without_private=spec.url.disable_private_ips,
        headers={
            name: _header(configuration, name, value, spec.env_prefix) for name, value in spec.headers.items()
        },
        fields=None if spec.allowed_fields is None else frozenset(spec.allowed_fields),
        disabled=configuration.content.http.disable_webhooks,
    )


def _header(configuration: Configuration, name: str, value: str, prefix: str) -> str:
    """Replaces `${{ env.NAME }}`, where NAME begins with `prefix`. Raises InvalidArgument, without values."""
    field = configuration.field(f"webhooks.headers.{name}")
    if not _NAME.fullmatch(name) or name.lower() in _OWN_HEADERS:
        raise InvalidArgument(
            field, "is not the name of a header, or one that the server sets: choose another"
        )

    def variable(match: re.Match[str]) -> str:
        source, _, variable = match[1].partition(".")
        if source != "env" or not variable.isidentifier():
            raise InvalidArgument(field, f"has {match[0]!r}: only ${{{{ env.NAME }}}} is possible")
        if not variable.startswith(prefix):
            raise InvalidArgument(
                field, f"the variable {variable} must begin with {prefix} (webhooks.env_prefix)"
            )
        if variable not in os.environ:
            raise InvalidArgument(field, f"the variable {variable} is not set")
        return os.environ[variable]

    text = _TEMPLATE.sub(variable, value)
    if not text.isascii() or not text.isprintable():
        raise InvalidArgument(field, "must consist of printable ASCII characters")
    return text
