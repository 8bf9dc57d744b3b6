"""Mutants of a Python file, from its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import cast

from tests.mutants.mutant import Mutant
from tests.mutants.sql_mutants import changes_of_sql

_COMPARED: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
_CALCULATED: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "//",
    ast.FloorDiv: "*",
    ast.Div: "*",
}
Change = tuple[str, ast.expr | ast.stmt, str]

_UNSEEN = ("logger", "log", "logging", "TYPE_CHECKING", "__all__", "__slots__")
"""A statement that begins with one of these has no behaviour that a test should pin."""


def python_mutants(path: str, text: str) -> list[Mutant]:
    return list(_Changes(path, text).all())


class _Changes:
    def __init__(self, path: str, text: str) -> None:
        self._path, self._text = path, text
        self._lines = [0]
        for line in text.encode().splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._bytes = text.encode()

    def all(self) -> Iterator[Mutant]:
        for function, node in _inside_functions(ast.parse(self._text)):
            for kind, place, after in _changes_of(node):
                yield self._mutant(function, kind, place, after)
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from self._sql(function, node)

    def _span(self, node: ast.expr | ast.stmt | ast.ExceptHandler) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        first = self._lines[node.lineno - 1] + node.col_offset
        last = self._lines[node.end_lineno - 1] + node.end_col_offset
        return len(self._bytes[:first].decode()), len(self._bytes[:last].decode())

    def _mutant(self, function: str, kind: str, node: ast.expr | ast.stmt, after: str) -> Mutant:
        start, end = self._span(node)
        return Mutant.at(self._path, self._text, kind, function, start, end, after)

    def _sql(self, function: str, node: ast.Constant) -> Iterator[Mutant]:
        start, end = self._span(node)
        for kind, first, last, after in changes_of_sql(self._text[start:end]):
            yield Mutant.at(self._path, self._text, kind, function, start + first, start + last, after)


def _inside_functions(tree: ast.AST, name: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Each node inside a function, with its dotted name, without annotations, decorators and docstrings."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.ClassDef):
            yield from _inside_functions(child, f"{name}{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in child.body:
                if not _is_text(statement):
                    yield from _parts(statement, f"{name}{child.name}")


def _parts(node: ast.AST, function: str) -> Iterator[tuple[str, ast.AST]]:
    if _is_unseen(node):
        return
    yield function, node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        children: list[object] = cast("list[object]", value) if isinstance(value, list) else [value]
        for child in children:
            if isinstance(child, ast.AST) and not _is_text(child):
                yield from _parts(child, function)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_unseen(node: ast.AST) -> bool:
    if isinstance(
        node, ast.Raise | ast.Assert
    ):  # the texts of errors, and what the code itself holds impossible
        return isinstance(node, ast.Assert)
    return isinstance(node, ast.Expr | ast.If | ast.Assign) and ast.unparse(node).removeprefix(
        "if "
    ).startswith(_UNSEEN)


def _changes_of(node: ast.AST) -> Iterator[Change]:
    """Kind, what is replaced, and by what."""
    match node:
        case ast.Compare() | ast.BoolOp() | ast.UnaryOp() | ast.If() | ast.While() | ast.IfExp():
            yield from _changes_of_condition(node)
        case ast.BinOp() | ast.Constant():
            yield from _changes_of_value(node)
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield "return", node, "return None"
        case ast.ExceptHandler(type=ast.expr() as caught):
            yield "exception", caught, "ZeroDivisionError"
        case ast.Call(func=function, args=arguments, keywords=keywords):
            yield from _changes_of_call(node, function, arguments, keywords)
        case ast.Assign(targets=[ast.Name()]):
            pass  # the name would be unbound, which any test notices
        case ast.Expr() | ast.Assign() | ast.AugAssign() | ast.Delete():
            if not any(isinstance(part, ast.Yield | ast.YieldFrom) for part in ast.walk(node)):
                yield "remove", node, "pass"
        case _:
            pass


def _changes_of_condition(
    node: ast.Compare | ast.BoolOp | ast.UnaryOp | ast.If | ast.While | ast.IfExp,
) -> Iterator[Change]:
    match node:
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in _COMPARED:
            yield "compare", node, f"({ast.unparse(left)} {_COMPARED[type(operator)]} {ast.unparse(right)})"
        case ast.BoolOp(op=operator, values=values):
            same, other = ("and", "or") if isinstance(operator, ast.And) else ("or", "and")
            parts = [f"({ast.unparse(one)})" for one in values]
            yield "condition", node, f"({f' {other} '.join(parts)})"
            for left_out in range(len(parts)):
                rest = parts[:left_out] + parts[left_out + 1 :]
                yield "drop-condition", node, f"({f' {same} '.join(rest)})"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "negate", node, f"bool({ast.unparse(operand)})"
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            changed_itself = isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp)
            if not changed_itself and not any(isinstance(part, ast.NamedExpr) for part in ast.walk(test)):
                yield "negate", test, f"(not ({ast.unparse(test)}))"
        case _:
            pass


def _changes_of_value(node: ast.BinOp | ast.Constant) -> Iterator[Change]:
    match node:
        case ast.BinOp(op=operator, left=left, right=right):
            if type(operator) in _CALCULATED and not _has_text(node):
                yield (
                    "arithmetic",
                    node,
                    f"({ast.unparse(left)} {_CALCULATED[type(operator)]} {ast.unparse(right)})",
                )
        case ast.Constant(value=bool() as value):
            yield "constant", node, str(not value)
        case ast.Constant(value=int() | float() as value):
            yield "constant", node, repr(value + 1)
        case _:
            pass


def _changes_of_call(
    node: ast.Call, function: ast.expr, arguments: list[ast.expr], keywords: list[ast.keyword]
) -> Iterator[Change]:
    plain = [ast.unparse(one) for one in arguments]
    named = [
        ast.unparse(one) if one.arg is None else f"{one.arg}={ast.unparse(one.value)}" for one in keywords
    ]
    called = ast.unparse(function)
    swappable = len(plain) >= 2 and plain[0] != plain[1] and called not in ("min", "max", "isinstance")
    if swappable and not any(isinstance(one, ast.Starred) for one in arguments[:2]):
        yield "swap-arguments", node, f"{called}({', '.join([plain[1], plain[0], *plain[2:], *named])})"
    for left_out in range(len(named)):
        rest = [one for number, one in enumerate(named) if number != left_out]
        yield "drop-argument", node, f"{called}({', '.join([*plain, *rest])})"


def _has_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(part, ast.Constant | ast.JoinedStr)
        and not isinstance(getattr(part, "value", 0), int | float)
        for part in ast.walk(node)
    )
