"""Hostile values for fields and texts."""

from __future__ import annotations

import json
from random import Random
from typing import Any, cast

DEEP = 10_000
UNKNOWN = "3f0c9a52-6d0f-4c57-9d37-0b6f7f3f5f11"

TEXTS: tuple[str, ...] = (
    "",
    " ",
    "null",
    "undefined",
    "NaN",
    "\x00",
    "a\x00b",
    "\r\nset-cookie: a=b",
    "\x1b[31mred",
    "\u202eover",
    "\ufeff",
    "\uffff",
    "é" * 300,
    "🦀" * 100,
    "x" * 5_000,
    "../../etc/passwd",
    "..%2f..%2f",
    "' OR '1'='1",
    "'; DROP TABLE runs; --",
    '"}); DELETE',
    "$.a[*]",
    '$."a"',
    "a.b.c",
    "%s%n%x",
    "{{7*7}}",
    "${jndi:ldap://x}",
    "__proto__",
    "constructor",
    "__import__('os')",
    "rc:{g}:ctl",
    "*",
    "-1",
    "0",
    "1e999",
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "{00000000-0000-0000-0000-000000000000}",
    "urn:uuid:00000000-0000-0000-0000-000000000000",
    "00000000000000000000000000000000",
    "http://127.0.0.1/",
    "file:///etc/passwd",
    "//evil.example",
    "agent",
)

NUMBERS: tuple[str, ...] = (
    "0",
    "-0",
    "-1",
    "1.5",
    "-0.0",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
    "100000000000000000000",
    "1" + "0" * 400,
    "1" * 5_000,
    "1e308",
    "1e309",
    "-1e999",
    "1e-400",
    "NaN",
    "Infinity",
    "-Infinity",
    "0x10",
    "01",
    "+1",
    ".5",
    "1.",
)

KEYS: tuple[str, ...] = (
    *TEXTS[:24],
    "assistant_id", "thread_id", "run_id", "user_id", "metadata", "config", "configurable", "checkpoint_id",
    "__interrupt__", "langgraph_auth_user", "checkpoint_ns",
)  # fmt: skip

RAW: tuple[bytes, ...] = (
    b"",
    b" ",
    b"{",
    b"[",
    b'"',
    b"nul",
    b"{}{}",
    b'{"a":1,}',
    b"{'a': 1}",
    b'{"a":1}//x',
    b"\xef\xbb\xbf{}",
    "{}".encode("utf-16"),
    "{}".encode("utf-32"),
    b'{"assistant_id":"\xff\xfe"}',
    b'{"assistant_id":"\xc0\xaf"}',
    b'{"assistant_id":"\xed\xa0\x80"}',
    b'{"assistant_id":"agent","input":"\\ud800"}',
    b'{"assistant_id":"agent","metadata":{"\\udfff":1}}',
    b'{"assistant_id":"agent","metadata":{"a":"\\u0000"}}',
    b'{"assistant_id":"agent","assistant_id":["x"]}',
    b'{"assistant_id":"agent","input":"a\nb"}',
    b"[" * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    b'{"assistant_id":"agent","input":' + b"[" * DEEP + b"]" * DEEP + b"}",
    b'{"assistant_id":"agent","input":' + b"[" * 180 + b"]" * 180 + b"}",
    b'{"assistant_id":"agent","metadata":' + b'{"a":' * 190 + b"1" + b"}" * 190 + b"}",
    b'{"metadata":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    b"\x00" * 100,
    b"a=b&c=d",
    b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
)
"""Bodies that are no JSON, or none that one may have."""


class Number(str):
    """A number in its literal spelling, which may be invalid JSON."""

    __slots__ = ()


def value(rng: Random, depth: int = 3) -> Any:
    kind = rng.randrange(8 if depth else 5)
    if kind < 2:
        return rng.choice(TEXTS)
    if kind == 2:
        return Number(rng.choice(NUMBERS))
    if kind < 5:
        return rng.choice((None, True, False, [], {}, "", 0, [None], {"": None}, UNKNOWN))
    if kind < 7:
        return {rng.choice(KEYS): value(rng, depth - 1) for _ in range(rng.randrange(4))}
    return [value(rng, depth - 1) for _ in range(rng.randrange(4))]


def encoded(content: Any) -> bytes:
    """Encodes JSON with the literal spelling of each `Number`."""
    if isinstance(content, Number):
        return content.encode()
    if isinstance(content, dict):
        items = cast("dict[str, Any]", content).items()
        return b"{" + b",".join(json.dumps(key).encode() + b":" + encoded(one) for key, one in items) + b"}"
    if isinstance(content, list):
        return b"[" + b",".join(encoded(one) for one in cast("list[Any]", content)) + b"]"
    return json.dumps(content).encode()
