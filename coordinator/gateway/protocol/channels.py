"""Which events a client has subscribed to: by channel, namespace and depth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from coordinator.event_log import OMITTED

CHANNELS = frozenset(
    {"values", "updates", "messages", "tools", "lifecycle", "input", "checkpoints", "tasks", "custom"}
)
NAMED = "custom:"
"""Prefix of a channel that has the custom events of one name."""
_NOT_SHOWN = frozenset(
    {"debug", "events", "messages/partial", "messages/complete", "messages/metadata", "metadata", "error"}
)
"""Modes of the Runs API that the protocol does not have."""

Namespace = tuple[str, ...]


class Address(NamedTuple):
    """`name`: of a custom event that has one."""

    channel: str
    name: str | None
    namespace: Namespace


ROOT = Address("lifecycle", None, ())


@lru_cache(4096)
def address_of(mode: str) -> Address | None:
    """Returns the address of an event in the log of a run, None if the protocol has no such events. A mode
    that is no channel, which code of users has emitted, is the name of a custom event."""
    channel, *namespace = mode.split("|")
    if channel in _NOT_SHOWN:
        return None
    if channel in CHANNELS:
        return Address(channel, None, tuple(namespace))
    if channel == OMITTED:
        return Address("custom", OMITTED, ())
    return Address("custom", channel.removeprefix(NAMED), tuple(namespace))


class Selection(Protocol):
    def includes(self, address: Address) -> bool: ...


class Subscription(NamedTuple):
    """`namespaces`: prefixes, None = all. `depth`: levels below a prefix, None = all."""

    channels: frozenset[str]
    namespaces: tuple[Namespace, ...] | None = None
    depth: int | None = None

    def includes(self, address: Address) -> bool:
        channel, name, namespace = address
        if channel not in self.channels and not (
            channel == "custom" and (name == OMITTED or f"{NAMED}{name}" in self.channels)
        ):
            return False
        if not self.namespaces:
            return True
        return any(self._is_within(namespace, prefix) for prefix in self.namespaces)

    def _is_within(self, namespace: Namespace, prefix: Namespace) -> bool:
        below = len(namespace) - len(prefix)
        if below < 0 or (self.depth is not None and below > self.depth):
            return False
        return all(map(_matches, namespace, prefix))


def _matches(segment: str, pattern: str) -> bool:
    """A segment is `node:task`; a pattern without a task matches all tasks of the node."""
    return segment == pattern or (":" not in pattern and segment.partition(":")[0] == pattern)


def is_channel(name: str) -> bool:
    return name in CHANNELS or (name.startswith(NAMED) and len(name) > len(NAMED))


def subscription(
    channels: Iterable[str], namespaces: Iterable[Sequence[str]] | None, depth: int | None
) -> Subscription:
    prefixes = None if namespaces is None else tuple(tuple(one) for one in namespaces)
    return Subscription(frozenset(channels), prefixes, depth)
