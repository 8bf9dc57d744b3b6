"""Imports what a configuration names: `path/file.py:attribute` or `package.module:attribute`."""

from __future__ import annotations

import os
import sys
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb
from types import ModuleType

from coordinator.errors import InvalidArgument

_FORM = "write it as ./path/file.py:attribute or package.module:attribute"


def put_on_path(folder: Path) -> None:
    """Make `folder` the first one that modules are imported from. Idempotent."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def object_at(target: str, folder: Path, field: str) -> object:
    """Import the object that `target` names; paths are relative to `folder`. Raises InvalidArgument for
    `field`: it states what is missing, or what the module raised."""
    source, _, attributes = target.rpartition(":")
    if not source or not attributes:
        raise InvalidArgument(field, f"{target!r} does not name an object: {_FORM}")
    is_file = source.endswith(".py") or "/" in source
    resolved: object = _module_at(source, folder, field) if is_file else _module(source, field)
    for name in attributes.split("."):
        if not hasattr(resolved, name):
            raise InvalidArgument(
                field, f"{source} has no {attributes!r}: define it there, or correct the name"
            )
        resolved = getattr(resolved, name)
    return resolved


def _module_at(source: str, folder: Path, field: str) -> ModuleType:
    path = (folder / source).resolve()
    if not path.is_file():
        raise InvalidArgument(field, f"there is no file {path}: paths are relative to {folder}")
    name = _importable_name(path, folder)
    if name is not None:
        return _module(name, field)
    # The name is the same in every worker: checkpoints name the modules of the classes that they contain.
    relative = os.path.relpath(path, folder)
    name = f"graph_{path.stem}_{sha256(relative.encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidArgument(field, f"{path} is not a Python file")
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        raise _failed(source, error, field) from error
    return module


def _importable_name(path: Path, folder: Path) -> str | None:
    """Return the name by which other modules import this file: below its outermost package, else below
    `folder`. None if that name is another module's, or no name."""
    base = path.parent
    while (base / "__init__.py").exists():
        base = base.parent
    if base != path.parent:
        put_on_path(base)
    elif folder in path.parents:
        base = folder
    name = ".".join(path.relative_to(base).with_suffix("").parts)
    try:
        spec = find_spec(name) if all(part.isidentifier() for part in name.split(".")) else None
    except Exception:  # noqa: BLE001 - a parent package that cannot be imported, reported by the next attempt
        return name
    return name if spec is not None and spec.origin is not None and Path(spec.origin) == path else None


def _module(name: str, field: str) -> ModuleType:
    try:
        return import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            why = f"there is no module {name!r}: install it, or name its folder in the key dependencies"
            raise InvalidArgument(field, why) from error
        raise _failed(name, error, field) from error


def _failed(source: str, error: BaseException, field: str) -> InvalidArgument:
    where = _place_of(error)
    text = error.msg if isinstance(error, SyntaxError) else error
    place = "" if where is None else f" ({where})"
    return InvalidArgument(field, f"importing {source} raised {type(error).__name__}: {text}{place}")


def _place_of(error: BaseException) -> str | None:
    """Return file and line: of a syntax error also its text, else of the deepest frame outside the import
    machinery."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        text = (error.text or "").strip()
        return f"{error.filename}, line {error.lineno}" + (f": {text}" if text else "")
    frames = [one for one in extract_tb(error.__traceback__) if "importlib" not in one.filename]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else None
