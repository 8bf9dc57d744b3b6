"""URLs as people may see them: the one function is in `stores.urls`, because stores are a leaf."""

from __future__ import annotations

from stores.urls import redact_url, redact_urls_in

__all__ = ["redact_url", "redact_urls_in"]
