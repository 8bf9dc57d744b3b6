"""PostgreSQL: the store for many hosts."""

from __future__ import annotations

from stores.postgres.options import Options
from stores.postgres.store import PostgresStore

__all__ = ["Options", "PostgresStore"]
