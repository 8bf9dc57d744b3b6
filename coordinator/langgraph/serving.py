"""The assistants of a `langgraph.json`, and of graphs that a module contains."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import cast
from urllib.parse import quote, unquote

from langgraph.store.base import BaseStore, IndexConfig, TTLConfig, ensure_embeddings

from coordinator.errors import InvalidArgument
from coordinator.langgraph.assistant import GraphAssistant
from coordinator.langgraph.config import Configuration, StoreSpec, read
from coordinator.langgraph.contexts import Preset
from coordinator.langgraph.extending import extension_of
from coordinator.langgraph.extension import Extension
from coordinator.langgraph.importing import object_at, put_on_path
from coordinator.langgraph.loading import GraphEntry
from coordinator.langgraph.states import postgres_states, sqlite_states
from coordinator.langgraph.storage import GraphStates, GraphStorage
from coordinator.langgraph.stores import StoreOptions, memory_store, postgres_store, sqlite_store
from coordinator.schemas import Json

logger = logging.getLogger(__name__)

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql://", "postgres://")


def assistants_of(path: Path, store: str) -> dict[str, GraphAssistant]:
    """Read the file and import its graphs. `store`: URL of the store of the runs, beside which checkpoints
    are kept by default. Sets the variables of the key env that are not set. Raises InvalidArgument, also for
    a file with auth.path: the caller would not call the functions."""
    assistants, extension = project_of(path, store)
    if extension.handlers is not None:
        raise InvalidArgument(
            f"{path}: auth.path", "needs a gateway that serves this file: coordinator serve"
        )
    return assistants


def project_of(path: Path, store: str) -> tuple[dict[str, GraphAssistant], Extension]:
    """Return the assistants of the file, see `assistants_of`, and what it adds to a gateway. Raises
    InvalidArgument."""
    configuration = read(path)
    for folder in reversed(configuration.import_folders()):
        put_on_path(folder)
    for name, value in configuration.environment().items():
        os.environ.setdefault(name, value)
    storage = _storage(configuration, store)
    content = configuration.content
    assistants: dict[str, GraphAssistant] = {}
    entries: dict[str, GraphEntry] = {}
    for name, spec in content.graphs.items():
        field = configuration.field(f"graphs.{name}")
        entries[name] = _entry(name, object_at(spec.path, configuration.folder, field), field)
        assistants[name] = GraphAssistant(
            entries[name], storage, name=name, text=spec.description, retries=spec.retries
        )
    for name, spec in content.assistants.items():
        preset = Preset(spec.config, spec.context)
        of_graph = content.graphs[spec.graph]
        assistants[name] = GraphAssistant(
            entries[spec.graph],
            storage,
            name=name,
            text=spec.description or of_graph.description,
            preset=preset,
            retries=of_graph.retries,
        )
    return assistants, extension_of(configuration)


def adapted(graphs: Mapping[str, object], store: str) -> dict[str, GraphAssistant]:
    """Return assistants for graphs without a file, whose checkpoints are beside the store of the runs."""
    storage = GraphStorage(states_at(beside(store, "checkpoints")), _store_at(beside(store, "items")))
    return {name: GraphAssistant(graph, storage, name=name) for name, graph in graphs.items()}


def _entry(name: str, imported: object, field: str) -> GraphEntry:
    try:
        return GraphEntry(name, imported)
    except InvalidArgument as error:
        raise InvalidArgument(field, error.why) from error


# -- where state is kept


def beside(store: str, suffix: str) -> str:
    """Return the URL of the checkpoints for a store of runs: a file in the same folder, or the same database.
    Checkpoints are large and frequent: in the file of the runs they would delay cancels."""
    if not store.startswith(_SQLITE):
        return store
    path = Path(unquote(store.removeprefix(_SQLITE)))
    return f"{_SQLITE}{quote(str(path.with_name(f'{path.stem}-{suffix}{path.suffix}')))}"


def states_at(url: str, allowed: Iterable[tuple[str, str]] = ()) -> GraphStates:
    """Raises InvalidArgument."""
    if url.startswith("memory:"):
        return sqlite_states(_temporary_folder() / "checkpoints.db", allowed=allowed)
    if url.startswith(_SQLITE):
        return sqlite_states(Path(unquote(url.removeprefix(_SQLITE))), allowed=allowed)
    if url.startswith(_POSTGRES):
        return postgres_states(url, allowed=allowed)
    raise InvalidArgument("url", "must be sqlite:///path or postgresql://host/database")


def _temporary_folder() -> Path:
    """Return a folder that is removed when the process exits."""
    folder = Path(mkdtemp(prefix="coordinator-graphs-"))
    atexit.register(rmtree, folder, ignore_errors=True)
    return folder


def _storage(configuration: Configuration, store: str) -> GraphStorage:
    url = configuration.content.checkpointer.url
    checkpoints = beside(store, "checkpoints") if url is None else _absolute(url, configuration.folder)
    spec = configuration.content.store
    items = beside(store, "items") if spec.url is None else _absolute(spec.url, configuration.folder)
    try:
        states = states_at(checkpoints, configuration.content.checkpointer.serde.allowed_msgpack_modules)
    except InvalidArgument as error:
        raise InvalidArgument(configuration.field("checkpointer.url"), error.why) from None
    options = _options(configuration, spec)
    try:
        return GraphStorage(states, _store_at(items, options))
    except InvalidArgument as error:
        raise InvalidArgument(configuration.field("store.url"), error.why) from None


def _absolute(url: str, folder: Path) -> str:
    """Paths in the file are relative to its folder."""
    if not url.startswith(_SQLITE):
        return url
    return f"{_SQLITE}{quote(str(folder / unquote(url.removeprefix(_SQLITE))))}"


def _store_at(url: str, options: StoreOptions | None = None) -> AbstractAsyncContextManager[BaseStore]:
    chosen = options or StoreOptions()
    if url.startswith("memory:"):
        return memory_store(chosen)
    if url.startswith(_SQLITE):
        return sqlite_store(Path(unquote(url.removeprefix(_SQLITE))), chosen)
    if url.startswith(_POSTGRES):
        return postgres_store(url, chosen)
    raise InvalidArgument("url", "must be sqlite:///path or postgresql://host/database")


def _options(configuration: Configuration, spec: StoreSpec) -> StoreOptions:
    options = StoreOptions()
    if spec.index is not None:
        index: dict[str, Json] = {"dims": spec.index.dims, "embed": _embed(configuration, spec.index.embed)}
        if spec.index.fields is not None:
            index["fields"] = spec.index.fields
        options = replace(options, index=cast("IndexConfig", index))
    if spec.ttl is not None:
        options = replace(options, ttl=cast("TTLConfig", spec.ttl.model_dump(exclude_none=True)))
    return options


def _embed(configuration: Configuration, embed: str) -> Json:
    """Return the model of a provider, or the function that a path names. Raises InvalidArgument."""
    field, source = configuration.field("store.index.embed"), embed.partition(":")[0]
    if source.endswith(".py") or "/" in source or "." in source:
        return object_at(embed, configuration.folder, field)
    try:
        return ensure_embeddings(embed)
    except Exception as error:
        if find_spec("langchain") is None:
            why = f"{embed!r} needs langchain: pip install langchain langchain-{source}"
        else:
            why = f"{embed!r} cannot be loaded: {' '.join(str(error).split())}"
        raise InvalidArgument(field, why) from error
