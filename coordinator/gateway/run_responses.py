"""The two responses that follow a run: a stream of its events, and its result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from starlette.responses import Response

from coordinator.gateway.caller import Caller
from coordinator.gateway.links import resume_headers, run_path
from coordinator.gateway.long_lived_responses import StreamSlot
from coordinator.gateway.long_poll import LongPollResponse, result_of
from coordinator.gateway.services import Services
from coordinator.gateway.streams import TAIL, EndedStream, Position, RunStream, StreamRequest, position_of
from coordinator.gateway.wire.documents import failure
from coordinator.record import RunRecord
from coordinator.schemas import Cause
from stores.json_values import JsonObject
from stores.rows import RunRow
from stores.states import FAILED, OPEN

OnDisconnect = Callable[[], Awaitable[object]]


class RunResponses:
    """Creates the responses that follow a run, for one caller."""

    def __init__(self, services: Services, caller: Caller) -> None:
        self._manager, self._heartbeat = services.manager, services.settings.heartbeat
        self._user_id, self._actor = caller.user_id, caller.actor

    # -- a run that this request has started: at a disconnect its `on_disconnect` applies

    def stream(self, run: RunRecord, slot: StreamSlot, content_location: str | None = None) -> Response:
        path = run_path(run.thread_id, run.run_id)
        return RunStream(
            self._manager,
            self._stream_request(run, run.kwargs.get("stream_mode"), Position()),
            slot,
            heartbeat=self._heartbeat,
            headers=resume_headers(path, "stream", content=content_location),
            on_disconnect=self._apply_disconnect(run.run_id),
        )

    def result(self, run: RunRecord, slot: StreamSlot) -> Response:
        return self._result(run.thread_id, run.run_id, slot, self._apply_disconnect(run.run_id))

    # -- any run: a disconnect cancels it only with `cancel_on_disconnect`

    def join_stream(
        self,
        run: RunRow,
        slot: StreamSlot,
        *,
        last_event_id: str | None,
        modes: Sequence[str],
        cancel_on_disconnect: bool,
    ) -> Response:
        """Streams from `last_event_id` on if the run is resumable, else from now on. Raises
        InvalidArgument."""
        position = self._position(run, last_event_id)
        headers = resume_headers(run_path(run.thread_id, run.run_id), "stream")
        if run.shown_status not in OPEN and (position.after == TAIL.after or position.ended):
            failure_document = None if position.ended else failure_of(run)
            return EndedStream(
                slot, headers=headers, lost_events=position.lost_events, failure_document=failure_document
            )
        return RunStream(
            self._manager,
            self._stream_request(run, modes or run.kwargs.get("stream_mode"), position),
            slot,
            heartbeat=self._heartbeat,
            headers=headers,
            on_disconnect=self._cancel(run.run_id) if cancel_on_disconnect else None,
        )

    def join_result(self, run: RunRow, slot: StreamSlot, *, cancel_on_disconnect: bool = False) -> Response:
        on_disconnect = self._cancel(run.run_id) if cancel_on_disconnect else None
        return self._result(run.thread_id, run.run_id, slot, on_disconnect)

    def _result(
        self, thread_id: str, run_id: str, slot: StreamSlot, on_disconnect: OnDisconnect | None
    ) -> Response:
        return LongPollResponse(
            partial(result_of, self._manager, thread_id, run_id, self._user_id),
            slot,
            heartbeat=self._heartbeat,
            headers=resume_headers(run_path(thread_id, run_id), "join"),
            on_disconnect=on_disconnect,
        )

    def _stream_request(
        self, run: RunRecord | RunRow, modes: Sequence[str] | None, position: Position
    ) -> StreamRequest:
        return StreamRequest(
            run_id=run.run_id,
            user_id=self._user_id,
            attempt=max(1, run.attempt) if isinstance(run, RunRow) else 1,
            modes=modes,
            subgraphs=_is_set(run, "stream_subgraphs"),
            resumable=_is_set(run, "stream_resumable"),
            position=position,
            assistant_id=run.assistant_id,
        )

    def _position(self, run: RunRow, last_event_id: str | None) -> Position:
        """Returns the position after `last_event_id`. The events of a run that is not resumable have no ids:
        its stream continues from now on, with a gap."""
        if last_event_id and _is_set(run, "stream_resumable"):
            return position_of(last_event_id)
        return Position(
            TAIL.after, with_metadata=run.waiting, lost_events=bool(last_event_id) and not run.waiting
        )

    def _apply_disconnect(self, run_id: str) -> OnDisconnect:
        return partial(self._manager.disconnected, run_id, user_id=self._user_id)

    def _cancel(self, run_id: str) -> OnDisconnect:
        return partial(
            self._manager.cancel,
            run_id,
            cause=Cause.disconnect,
            reason="a client that followed it has disconnected",
            actor=self._actor,
            user_id=self._user_id,
        )


def failure_of(run: RunRow) -> dict[str, str] | None:
    """Returns the error of a failed run, else None."""
    return failure(run.status, run.error) if run.status in FAILED else None


def _is_set(run: RunRecord | RunRow, key: str) -> bool:
    kwargs: JsonObject = run.kwargs
    return kwargs.get(key) is True
