"""Durable run stores. A leaf: nothing here imports `coordinator`."""

from stores.base import RunStore
from stores.memory import MemoryRunStore, MemoryStore
from stores.sqlite import SQLiteStore

__all__ = ["MemoryRunStore", "MemoryStore", "RunStore", "SQLiteStore"]
