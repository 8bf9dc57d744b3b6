"""HTTP/1.1 on one connection, where everything that a client sends, or fails to read, is bounded.

httptools and uvicorn have no bounds of their own: without these a client could send headers, trailers or
blank lines until the memory is full, or one byte of them a minute and keep the connection for ever.

`phases` has the bounds of each phase. What is sent while an answer is open waits for its end, at most 1 MiB
of it. Trailers are dropped: whatever a proxy checks, it checks in the head.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, ClassVar, cast

from httptools import HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from coordinator.gateway.server.connections import Connections, connections_of
from coordinator.gateway.server.phases import Limits, Phase
from coordinator.gateway.server.transport import GuardedTransport, in_kernel

_WAITING = frozenset({Phase.idle, Phase.head, Phase.request, Phase.surplus, Phase.lingering})
"""For the client to send."""

_SLICE = 4096
"""Bytes that are parsed at once: what stands in one slice is the most that is parsed before its bounds are
looked at, and before an answer is waited for."""

_FRAME = 16
"""Bytes of frame that each byte of a body may have: a chunk of one byte has 5."""

_LOOKS = 12
"""So often in its time a client that takes nothing is looked at."""


class _Refused(Exception):
    """Ends the parsing of a request that has a status of its own."""


class BoundedProtocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=…)`. A subclass may have other limits."""

    limits: ClassVar[Limits] = Limits()
    max_connections: ClassVar[int | None] = None
    """Of one server; None = as many as there are descriptors for when the first one comes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._all: Connections = connections_of(self.server_state, self.max_connections)
        self._receiving = self._headed = False
        """A request has begun and is not complete; its headers are."""
        self._overhead = self._body = self._fields = 0
        """Of the request that comes: bytes that are no body, bytes of body, headers."""
        self._refusal: HTTPStatus | None = None
        self._held = bytearray()
        self.unread = self._surplus = 0
        self._ending: Phase | None = None
        self._phase: Phase | None = None
        self._since = 0.0
        self._until: float | None = None
        self._unwritten, self._written_at = 0, 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # -- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner = cast("asyncio.Transport", transport)
        self._guarded = GuardedTransport(self._inner, self._finish, self._is_closing)
        super().connection_made(cast("asyncio.Transport", self._guarded))
        self._all.add(self)
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)
        self._guarded.release()

    def data_received(self, data: bytes) -> None:
        if self._ending is not None:
            self._discard(len(data))
        elif self._refusal is not None:
            self.flow.pause_reading()
        elif self._held or self.phase is Phase.answer:
            self._hold(data)
        else:
            self._feed(data)
            if self.phase is Phase.surplus:
                self._discard(len(data))
            self._settle()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writes()
        self._all.waits_for_client(self, self._unsent())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._all.waits_for_client(self, 0)

    def handle_websocket_upgrade(self) -> None:
        """It has bounds of its own."""
        self.transport = self._inner
        self._forget()
        super().handle_websocket_upgrade()

    def _forget(self) -> None:
        self._ending = Phase.closed
        self._all.remove(self)
        self._weigh(0)
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
        return self._since if self.phase in _WAITING else None

    def evict(self) -> None:
        self.connections.discard(self)
        self._ending = Phase.closed
        self._held.clear()
        self._weigh(0)
        self._inner.abort()

    def turn_away(self) -> None:
        self._guarded.write(_refusal_of(HTTPStatus.SERVICE_UNAVAILABLE, b"retry-after: 1\r\n"))
        self._close()

    # -- what comes

    def _feed(self, data: bytes) -> None:
        for start in range(0, len(data), _SLICE):
            if self._ending is not None or self._refusal is not None:
                return
            if self.phase is Phase.answer:
                self._hold(data[start:])
                return
            self._parse(data if len(data) <= _SLICE else data[start : start + _SLICE])

    def _parse(self, piece: bytes) -> None:
        before = self._body
        super().data_received(piece)
        self._overhead += len(piece) - max(0, self._body - before)
        if self._refusal is None and self._overhead > self.limits.head_bytes + _FRAME * self._body:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > self.limits.held_bytes:
            self.evict()
        elif len(self._held) > self.limits.head_bytes:
            self.flow.pause_reading()
        self._settle()

    def _feed_held(self) -> None:
        if self._ending is None and self._held and self.phase is not Phase.answer:
            data = bytes(self._held)
            self._held.clear()
            self.flow.resume_reading()
            self.data_received(data)

    def _discard(self, size: int) -> None:
        """Of a request that is answered. Read on for a while: a connection that is closed with bytes unread
        is reset, and its client may not have read the answer yet."""
        self._surplus += size
        if self._surplus > self.limits.linger_bytes:
            self._linger()
            self.flow.pause_reading()

    # -- what the parser finds

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._receiving, self._headed = True, False
        self._fields = self._surplus = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headed:  # a trailer
            return
        self._fields += 1
        if self._fields > self.limits.fields:
            self._refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        super().on_header(name, value.rstrip(b" \t"))  # RFC 9110, 5.5; the parser leaves what follows

    def on_headers_complete(self) -> None:
        self._check_head()
        super().on_headers_complete()
        self._headed = True

    def _check_head(self) -> None:
        parser = cast("HttpRequestParser", self.parser)
        version = parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        for name, value in self.headers:
            if name == b"transfer-encoding" and version == "1.0":
                self._refused(HTTPStatus.BAD_REQUEST)
            if name == b"expect" and version != "1.0" and value.lower() != b"100-continue":
                self._refused(HTTPStatus.EXPECTATION_FAILED)
        if version == "1.0":  # it does not know what an interim answer is
            self.expect_100_continue = False

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._receiving = False
        super().on_message_complete()
        self._overhead = self._body = 0

    # -- what is answered

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # `_settle` has its time
        if self._ending is None and self._refusal is not None:
            self._refuse(self._refusal)
        elif self._held:
            self.loop.call_soon(self._feed_held)
        self._settle()
        if self._unsent():
            self._watch_writes()

    def _refused(self, status: HTTPStatus) -> None:
        """From within the parser, which ends with this request."""
        self._note_refusal(status)
        raise _Refused

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls it for whatever the parser raises."""
        del msg
        self._refuse(HTTPStatus.BAD_REQUEST)

    def _refuse(self, status: HTTPStatus) -> None:
        self._note_refusal(status)
        if self.phase is Phase.answer:  # of an earlier request: its answer comes first
            self.flow.pause_reading()
        else:
            self._answer_refusal()

    def _note_refusal(self, status: HTTPStatus) -> None:
        if self._refusal is None:
            self._refusal = status
            self._all.note_refusal("an unknown address" if self.client is None else self.client[0])

    def _answer_refusal(self) -> None:
        phase = self.phase
        if phase is Phase.request:
            if self.cycle.response_started:  # two answers to one request would be taken for answers to two
                self._close()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if phase is not Phase.surplus:  # that has its answer
            self._guarded.write(_refusal_of(cast("HTTPStatus", self._refusal)))
        self._linger()

    # -- the end

    def _is_closing(self) -> bool:
        return self._ending is not None or self._inner.is_closing()

    def _finish(self) -> None:
        """What `transport.close` is: after the last answer, or where an answer broke off."""
        if self._ending is None:
            if self._receiving and self._headed:
                self._linger()
            else:
                self._close()

    def _linger(self) -> None:
        """No answer follows. What the client still sends is read for a while: it has to get the last one."""
        if self._ending is not None:
            return
        if self._inner.is_closing() or not self._inner.can_write_eof():
            self._close()
            return
        self._ending = Phase.lingering
        self._inner.write_eof()
        self.flow.resume_reading()
        self._settle()

    def _close(self) -> None:
        self._ending = Phase.closed
        self._inner.close()
        if self._unsent():
            self._watch_writes()
        self._settle()

    # -- time and memory

    def _settle(self) -> None:
        """After all that may change the phase. Its time begins when it does."""
        self._weigh(len(self._held) + (self._overhead if self.phase is Phase.head else 0))
        phase = self.phase
        if phase is self._phase:
            return
        now = self.loop.time()
        if phase is not Phase.head:  # who waits for a request has waited since the last one
            self._since = now
        if not (phase is Phase.lingering and self._phase is Phase.surplus):
            within = self.limits.time_of(phase)
            self._until = None if within is None else now + within
        self._phase = phase
        self._arm(self._until)

    def _weigh(self, weight: int) -> None:
        if weight != self.unread:
            more, self.unread = weight - self.unread, weight
            self._all.hold(self, more)

    def _watch_writes(self) -> None:
        self._unwritten, self._written_at = self._unsent() + in_kernel(self._inner), self.loop.time()
        self._arm(self._written_at + self.limits.write / _LOOKS)

    def _unsent(self) -> int:
        try:
            return self._inner.get_write_buffer_size()
        except RuntimeError:  # uvloop: it is closed
            return 0

    def _arm(self, at: float | None) -> None:
        """A timer that is set for later is set anew; one for earlier finds that it is too early."""
        if at is None or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at, self._timer = at, self.loop.call_at(at, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        now = self.loop.time() + 0.001  # a loop may count whole milliseconds
        if self._unwritten:
            self._look_at_writes(now)
        if self._until is not None and now >= self._until and self._phase is not Phase.closed:
            self._close()
        elif self._phase is not Phase.closed:
            self._arm(self._until)

    def _look_at_writes(self, now: float) -> None:
        unsent = self._unsent()
        untaken = unsent + in_kernel(self._inner)
        if self._phase in (Phase.answer, Phase.request) and not self.flow.write_paused:
            self._unwritten = 0  # more is being written: `pause_writing` begins anew
            return
        if untaken < self._unwritten:
            self._unwritten, self._written_at = untaken, now
        elif now - self._written_at >= self.limits.write:
            self.evict()
            return
        if not unsent:
            self._unwritten = 0
        else:
            self._arm(now + self.limits.write / _LOOKS)


def _refusal_of(status: HTTPStatus, more: bytes = b"") -> bytes:
    return (
        b"HTTP/1.1 %d %s\r\n%scontent-length: 0\r\nconnection: close\r\n\r\n"
        % (status, status.phrase.encode(), more)
    )  # fmt: skip
