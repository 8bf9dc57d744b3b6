"""Redaction of passwords in URLs. Implemented in `stores.urls`, because stores import nothing of
`coordinator`."""

from __future__ import annotations

from stores.urls import redact_url, redact_urls_in

__all__ = ["redact_url", "redact_urls_in"]
