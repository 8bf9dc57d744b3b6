"""LangGraph graphs as assistants (extra `langgraph`). Nothing outside this package imports langgraph."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.langgraph.assistant import GraphAssistant as GraphAssistant
    from coordinator.langgraph.contexts import Preset as Preset
    from coordinator.langgraph.states import postgres_states as postgres_states
    from coordinator.langgraph.states import sqlite_states as sqlite_states
    from coordinator.langgraph.storage import GraphStorage as GraphStorage
    from coordinator.langgraph.stores import StoreOptions as StoreOptions
    from coordinator.langgraph.stores import postgres_store as postgres_store
    from coordinator.langgraph.stores import sqlite_store as sqlite_store

_MODULES = {
    "GraphAssistant": "assistant",
    "GraphStorage": "storage",
    "Preset": "contexts",
    "StoreOptions": "stores",
    "postgres_states": "states",
    "postgres_store": "stores",
    "sqlite_states": "states",
    "sqlite_store": "stores",
}


def __getattr__(name: str) -> object:
    """Imports a public name at its first use, because langgraph is slow to import and may be absent."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
