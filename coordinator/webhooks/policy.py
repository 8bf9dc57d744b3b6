"""Restrictions of webhooks that come from a configuration, in addition to those of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class WebhookPolicy:
    """Restrictions of webhooks, in addition to those of the settings. `headers`: sent with each webhook."""

    https: bool = False
    domains: tuple[str, ...] = ()
    """Host names, or `*.` and a domain for all names below it. None given = any."""
    ports: frozenset[int] = frozenset()
    max_url_length: int | None = None
    without_loopback: bool = False
    without_private: bool = False
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    fields: frozenset[str] | None = None
    """Of the body; None = all."""
    disabled: bool = False
    """Webhooks of new runs are ignored."""

    def allows_host(self, host: str) -> bool:
        name = host.lower().removesuffix(".")
        return not self.domains or any(
            name.endswith(domain[1:]) if domain.startswith("*.") else name == domain
            for domain in self.domains
        )


UNRESTRICTED = WebhookPolicy()
