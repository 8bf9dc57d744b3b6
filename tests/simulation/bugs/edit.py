"""Plants a bug in the code, and removes it again."""

from __future__ import annotations
import __future__

import importlib
import inspect
import textwrap
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any


@dataclass(frozen=True)
class Edit:
    """`where`: "module:name" or "module:Class.method"; a function, or a constant text."""

    where: str
    old: str
    new: str

    @contextmanager
    def made(self) -> Generator[None]:
        module_name, _, path = self.where.partition(":")
        module = importlib.import_module(module_name)
        owner: Any = module
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        target = inspect.getattr_static(owner, name)
        if isinstance(target, str):
            setattr(owner, name, self._replaced(target))
            try:
                yield
            finally:
                setattr(owner, name, target)
            return
        function = _function(target)
        before = function.__code__
        # In place, because others have imported the function under names of their own.
        function.__code__ = self._compiled(function, vars(module))
        try:
            yield
        finally:
            function.__code__ = before

    def _replaced(self, text: str) -> str:
        if self.old not in text:
            raise LookupError(f"{self.where} does not contain {self.old!r}: move the planted bug along")
        return text.replace(self.old, self.new)

    def _compiled(self, function: FunctionType, names: dict[str, Any]) -> CodeType:
        source = self._replaced(textwrap.dedent(inspect.getsource(function)))
        flags = __future__.annotations.compiler_flag
        scope: dict[str, Any] = {}
        exec(compile(source, function.__code__.co_filename, "exec", flags), names, scope)  # noqa: S102 - its own source, edited
        made: FunctionType = _function(scope[function.__name__])
        return made.__code__.replace(co_qualname=function.__qualname__)


def _function(target: Any) -> FunctionType:
    if isinstance(target, property):
        target = target.fget
    return inspect.unwrap(target)


@dataclass(frozen=True)
class Bug:
    name: str
    edits: tuple[Edit, ...]

    @contextmanager
    def planted(self) -> Generator[None]:
        with ExitStack() as stack:
            for edit in self.edits:
                stack.enter_context(edit.made())
            yield


def bug(name: str, *edits: tuple[str, str, str]) -> Bug:
    return Bug(name, tuple(Edit(*edit) for edit in edits))
