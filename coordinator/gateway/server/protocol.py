"""HTTP/1.1 on one connection, with bounds on what a client sends and on what it does not read.

httptools and uvicorn have no bounds. Without them a client could send headers, trailers or blank lines until
the memory is exhausted, or one byte per minute and keep the connection open for ever.

The bounds of each phase are in `phases`. Pipelined requests are buffered until the response before them is
complete, up to 1 MiB. Trailers are dropped: proxies validate headers only.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, ClassVar, cast

from httptools import HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from coordinator.gateway.server.connections import Connections, connections_of
from coordinator.gateway.server.delimiting import end_with_connection
from coordinator.gateway.server.phases import Limits, Phase
from coordinator.gateway.server.transport import GuardedTransport, in_kernel

_WAITS_FOR_CLIENT = frozenset({Phase.idle, Phase.head, Phase.request, Phase.surplus, Phase.lingering})
"""Phases in which the connection waits for its client to send."""

_SLICE = 4096
"""Bytes that are parsed at once. Bounds are checked, and pipelined requests are held back, between slices."""

_FRAME = 16
"""Bytes of framing allowed per byte of a body. A chunk of one byte has 5."""

_WRITE_CHECKS = 12
"""How often within `Limits.write` the progress of a client that reads slowly is checked."""


class _Refused(Exception):
    """Aborts the parsing of a request; the status of the response is already recorded."""


class BoundedProtocol(HttpToolsProtocol):
    """A protocol for `uvicorn.Config(http=…)`. A subclass may define other limits."""

    limits: ClassVar[Limits] = Limits()
    max_connections: ClassVar[int | None] = None
    """Limit of one server; None = as many as the descriptors allow at the first connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # Any: as uvicorn's protocol has them
        super().__init__(*args, **kwargs)
        self._connections: Connections = connections_of(self.server_state, self.max_connections)
        self._receiving = self._headed = False
        """Whether a request has begun and is incomplete; whether its headers are complete."""
        self._overhead = self._body = self._fields = 0
        """Of the request being received: bytes of head and framing, bytes of body, number of headers."""
        self._refusal: HTTPStatus | None = None
        self._buffer = bytearray()
        self.unread = self._surplus = 0
        self._ending: Phase | None = None
        self._phase: Phase | None = None
        self._since = 0.0
        self._expires_at: float | None = None
        self._unwritten, self._written_at = 0, 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # -- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner = cast("asyncio.Transport", transport)
        self._guarded = GuardedTransport(self._inner, self._finish, self._is_closing)
        super().connection_made(cast("asyncio.Transport", self._guarded))
        self._connections.add(self)
        self._enter_phase()

    def connection_lost(self, exc: Exception | None) -> None:
        self._release()
        super().connection_lost(exc)
        self._guarded.release()

    def data_received(self, data: bytes) -> None:
        if self._ending is not None:
            self._discard(len(data))
        elif self._refusal is not None:
            self.flow.pause_reading()
        elif self._buffer or self.phase is Phase.answer:
            self._enqueue(data)
        else:
            self._feed(data)
            if self.phase is Phase.surplus:
                self._discard(len(data))
            self._enter_phase()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writes()
        self._connections.set_untaken(self, self._unsent())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._connections.set_untaken(self, 0)

    def handle_websocket_upgrade(self) -> None:
        """Hands the connection over to uvicorn's protocol for WebSockets, which has bounds of its own."""
        self.transport = self._inner
        self._release()
        super().handle_websocket_upgrade()

    def _release(self) -> None:
        self._ending = Phase.closed
        self._connections.remove(self)
        self._set_unread(0)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def shutdown(self) -> None:
        if self.phase in (Phase.idle, Phase.head):
            self._close()
        else:
            super().shutdown()

    @property
    def phase(self) -> Phase:
        if self._ending is not None:
            return self._ending
        if self.pipeline:
            return Phase.answer
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first request
        unanswered = cycle is not None and not cycle.response_complete
        if self._receiving and self._headed:
            return Phase.request if unanswered else Phase.surplus
        if unanswered:
            return Phase.answer
        return Phase.head if self._receiving else Phase.idle

    # -- for `Connections`

    @property
    def waits_since(self) -> float | None:
        return self._since if self.phase in _WAITS_FOR_CLIENT else None

    def evict(self) -> None:
        self.connections.discard(self)
        self._ending = Phase.closed
        self._buffer.clear()
        self._set_unread(0)
        self._inner.abort()

    def reject(self) -> None:
        self._guarded.write(_refusal_response(HTTPStatus.SERVICE_UNAVAILABLE, b"retry-after: 1\r\n"))
        self._close()

    # -- input

    def _feed(self, data: bytes) -> None:
        for start in range(0, len(data), _SLICE):
            if self._ending is not None or self._refusal is not None:
                return
            if self.phase is Phase.answer:
                self._enqueue(data[start:])
                return
            self._parse(data if len(data) <= _SLICE else data[start : start + _SLICE])

    def _parse(self, piece: bytes) -> None:
        before = self._body
        super().data_received(piece)
        self._overhead += len(piece) - max(0, self._body - before)
        if self._refusal is None and self._overhead > self.limits.head_bytes + _FRAME * self._body:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _enqueue(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > self.limits.held_bytes:
            self.evict()
        elif len(self._buffer) > self.limits.head_bytes:
            self.flow.pause_reading()
        self._enter_phase()

    def _feed_buffer(self) -> None:
        if self._ending is None and self._buffer and self.phase is not Phase.answer:
            data = bytes(self._buffer)
            self._buffer.clear()
            self.flow.resume_reading()
            self.data_received(data)

    def _discard(self, size: int) -> None:
        """Counts discarded bytes of a request that has its response. They are read for a while, because the
        kernel resets a connection that is closed with unread bytes, and the client could lose the
        response. Of a request that was refused as invalid, not more than `surplus_bytes`."""
        self._surplus += size
        if self._surplus > self.limits.surplus_bytes:
            self._linger()
        bound = self.limits.linger_bytes if self._refusal is None else self.limits.surplus_bytes
        if self._surplus > bound:
            self.flow.pause_reading()
        elif self._refusal is None and self._phase is not Phase.closed:
            longest = self._since + self.limits.linger_longest
            self._expires_at = min(longest, self.loop.time() + self.limits.linger)

    # -- callbacks of the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._receiving, self._headed = True, False
        self._fields = self._surplus = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headed:  # a trailer
            return
        self._fields += 1
        if self._fields > self.limits.fields:
            self._raise_refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        super().on_header(name, value.rstrip(b" \t"))  # RFC 9110, 5.5; the parser strips only leading blanks

    def on_headers_complete(self) -> None:
        self._check_head()
        super().on_headers_complete()
        self._headed = True
        self._guarded.expect_head()
        if self.scope["http_version"] == "1.0":
            end_with_connection(self.cycle)

    def _check_head(self) -> None:
        parser = cast("HttpRequestParser", self.parser)
        version = parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._raise_refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        for name, value in self.headers:
            if name == b"transfer-encoding" and version == "1.0":
                self._raise_refusal(HTTPStatus.BAD_REQUEST)
            if name == b"expect" and version != "1.0" and value.lower() != b"100-continue":
                self._raise_refusal(HTTPStatus.EXPECTATION_FAILED)
        if version == "1.0":  # HTTP/1.0 has no interim responses
            self.expect_100_continue = False

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._receiving = False
        super().on_message_complete()
        self._overhead = self._body = 0

    # -- responses

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # uvicorn's timer; `_enter_phase` sets its own
        if self._ending is None and self._refusal is not None:
            self._refuse(self._refusal)
        elif self._buffer:
            self.loop.call_soon(self._feed_buffer)
        self._enter_phase()
        if self._unsent():
            self._watch_writes()

    def _raise_refusal(self, status: HTTPStatus) -> None:
        """Records the status and aborts the parser. Called from callbacks of the parser."""
        self._note_refusal(status)
        raise _Refused

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for every exception of the parser."""
        del msg
        self._refuse(HTTPStatus.BAD_REQUEST)

    def _refuse(self, status: HTTPStatus) -> None:
        self._note_refusal(status)
        if self.phase is Phase.answer:  # the response to an earlier request precedes the refusal
            self.flow.pause_reading()
        else:
            self._answer_refusal()

    def _note_refusal(self, status: HTTPStatus) -> None:
        if self._refusal is None:
            self._refusal = status
            self._connections.note_refusal("an unknown address" if self.client is None else self.client[0])

    def _answer_refusal(self) -> None:
        phase = self.phase
        if phase is Phase.request:
            if self.cycle.response_started:  # a second response would be taken for that of the next request
                self._close()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if phase is not Phase.surplus:  # in that phase the request already has its response
            self._guarded.write(_refusal_response(cast("HTTPStatus", self._refusal)))
        self._linger()

    # -- closing

    def _is_closing(self) -> bool:
        return self._ending is not None or self._inner.is_closing()

    def _finish(self) -> None:
        """Implements `transport.close`, which uvicorn calls after the last or an incomplete response."""
        if self._ending is None:
            if self._receiving and self._headed:
                self._linger()
            else:
                self._close()

    def _linger(self) -> None:
        """Closes the sending side. Reads and discards for a while, so that the client receives the last
        response."""
        if self._ending is not None:
            return
        if self._inner.is_closing() or not self._inner.can_write_eof():
            self._close()
            return
        self._ending = Phase.lingering
        self._guarded.flush()
        self._inner.write_eof()
        self.flow.resume_reading()
        self._enter_phase()

    def _close(self) -> None:
        self._ending = Phase.closed
        self._guarded.flush()
        self._inner.close()
        if self._unsent():
            self._watch_writes()
        self._enter_phase()

    # -- time and memory

    def _enter_phase(self) -> None:
        """Called after everything that may change the phase. If it has changed, starts its timeout."""
        self._set_unread(len(self._buffer) + (self._overhead if self.phase is Phase.head else 0))
        phase = self.phase
        if phase is self._phase:
            return
        now = self.loop.time()
        if not (phase is Phase.lingering and self._phase is Phase.surplus):
            if phase is not Phase.head:  # in idle and head the wait counts from the end of the last request
                self._since = now
            within = self.limits.time_of(phase)
            self._expires_at = None if within is None else now + within
        self._phase = phase
        self._arm(self._expires_at)

    def _set_unread(self, size: int) -> None:
        if size != self.unread:
            growth, self.unread = size - self.unread, size
            self._connections.add_unread(self, growth)

    def _watch_writes(self) -> None:
        self._unwritten, self._written_at = self._unsent() + in_kernel(self._inner), self.loop.time()
        self._arm(self._written_at + self.limits.write / _WRITE_CHECKS)

    def _unsent(self) -> int:
        try:
            return self._inner.get_write_buffer_size()
        except RuntimeError:  # uvloop: it is closed
            return 0

    def _arm(self, at: float | None) -> None:
        """Ensures that the timer fires at `at` or earlier. A timer that fires too early re-arms itself."""
        if at is None or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at, self._timer = at, self.loop.call_at(at, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        now = self.loop.time() + 0.001  # a loop may count whole milliseconds
        if self._unwritten:
            self._check_writes(now)
        if self._expires_at is not None and now >= self._expires_at and self._phase is not Phase.closed:
            self._close()
        elif self._phase is not Phase.closed:
            self._arm(self._expires_at)

    def _check_writes(self, now: float) -> None:
        unsent = self._unsent()
        untaken = unsent + in_kernel(self._inner)
        if self._phase in (Phase.answer, Phase.request) and not self.flow.write_paused:
            self._unwritten = 0  # the response is still being written: `pause_writing` restarts the check
            return
        if untaken < self._unwritten:
            self._unwritten, self._written_at = untaken, now
        elif now - self._written_at >= self.limits.write:
            self.evict()
            return
        if not unsent:
            self._unwritten = 0
        else:
            self._arm(now + self.limits.write / _WRITE_CHECKS)


def _refusal_response(status: HTTPStatus, extra_headers: bytes = b"") -> bytes:
    """`extra_headers` are complete header lines."""
    return (
        b"HTTP/1.1 %d %s\r\n%scontent-length: 0\r\nconnection: close\r\n\r\n"
        % (status, status.phrase.encode(), extra_headers)
    )  # fmt: skip
