"""The driver's generic types: at run time they take no parameters."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[Any]"
"""Any: rows are mapped by their places, and records are no sequences to the type checker."""
Pool: TypeAlias = "asyncpg.Pool[Any]"  # Any: as above
Pooled: TypeAlias = Any
"""Any: a connection that a pool has lent, which passes on every attribute of a `hosts.Session`."""
