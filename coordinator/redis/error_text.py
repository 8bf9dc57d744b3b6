"""Errors of connections, in words for an operator."""

from __future__ import annotations

from coordinator.redis.refusals import RefusedError


def words_of(error: BaseException, limit: float, *, tls: bool = False) -> str:
    """`limit` (s) is what the attempt had; time-outs carry no text of their own."""
    if isinstance(error, RefusedError):
        return str(error)
    if isinstance(error, TimeoutError) and not str(error):
        what = "TCP and TLS did not complete" if tls else "no answer"
        return f"{what} within {limit:g} s"
    text = str(error)
    if "while writing to socket" in text:  # redis-py has not read what the server said before it closed
        text = "the server closes connections at once: it has too many clients, or is none of this kind"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
