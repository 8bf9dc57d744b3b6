"""Descriptions of connection errors for operators."""

from __future__ import annotations

from coordinator.redis.refusals import RefusedError


def describe(error: BaseException, limit: float, *, tls: bool = False) -> str:
    """Returns one line. `limit`: the timeout of the attempt (s), which the text of a timeout lacks."""
    if isinstance(error, RefusedError):
        return str(error)
    if isinstance(error, TimeoutError) and not str(error):
        missing = "TCP and TLS did not complete" if tls else "no answer"
        return f"{missing} within {limit:g} s"
    text = str(error)
    if (
        "while writing to socket" in text
    ):  # redis-py has not read the error that the server sent before it closed
        text = "the server closes connections at once: it has too many clients, or is not a Redis server"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
