"""The two ways to watch a run: its events as they come, and its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from starlette.responses import Response

from coordinator.gateway.caller import Caller
from coordinator.gateway.held import Place
from coordinator.gateway.links import goes_on_at, run_path
from coordinator.gateway.long_answers import LongAnswer, ending_of
from coordinator.gateway.services import Services
from coordinator.gateway.streams import TAIL, EndedStream, Position, RunStream, Watched, position_of
from coordinator.gateway.wire.documents import failure
from coordinator.record import RunRecord
from coordinator.schemas import Cause
from stores.rows import RunRow
from stores.states import FAILED, OPEN

OnGone = Callable[[], Awaitable[object]]


class Watching:
    """On behalf of one caller."""

    def __init__(self, services: Services, caller: Caller) -> None:
        self._manager, self._heartbeat = services.manager, services.settings.heartbeat
        self._user_id, self._actor = caller.user_id, caller.actor

    # -- a run that this request has begun: its client's going counts as the run says

    def stream_of(self, begun: RunRecord, place: Place, content_location: str | None = None) -> Response:
        path = run_path(begun.thread_id, begun.run_id)
        return RunStream(
            self._manager,
            self._watched(begun, begun.kwargs.get("stream_mode"), Position()),
            place,
            heartbeat=self._heartbeat,
            headers=goes_on_at(path, "stream", content=content_location),
            on_gone=self._disconnected(begun.run_id),
        )

    def end_of(self, begun: RunRecord, place: Place) -> Response:
        return self._end(begun.thread_id, begun.run_id, place, self._disconnected(begun.run_id))

    # -- any run: its client's going counts if that was asked for

    def joined_stream(
        self,
        run: RunRow,
        place: Place,
        *,
        last_event_id: str | None,
        modes: Sequence[str],
        cancel_on_disconnect: bool,
    ) -> Response:
        """Raises InvalidArgument."""
        position = self._position(run, last_event_id)
        headers = goes_on_at(run_path(run.thread_id, run.run_id), "stream")
        if run.shown_status not in OPEN and (position.after == TAIL.after or position.ended):
            failed = None if position.ended else failure_of(run)
            return EndedStream(place, headers=headers, missed=position.missed, failed=failed)
        return RunStream(
            self._manager,
            self._watched(run, modes or run.kwargs.get("stream_mode"), position),
            place,
            heartbeat=self._heartbeat,
            headers=headers,
            on_gone=self._cancelled(run.run_id) if cancel_on_disconnect else None,
        )

    def joined_end(self, run: RunRow, place: Place, *, cancel_on_disconnect: bool = False) -> Response:
        on_gone = self._cancelled(run.run_id) if cancel_on_disconnect else None
        return self._end(run.thread_id, run.run_id, place, on_gone)

    def _end(self, thread_id: str, run_id: str, place: Place, on_gone: OnGone | None) -> Response:
        return LongAnswer(
            partial(ending_of, self._manager, thread_id, run_id, self._user_id),
            place,
            heartbeat=self._heartbeat,
            headers=goes_on_at(run_path(thread_id, run_id), "join"),
            on_gone=on_gone,
        )

    def _watched(self, run: RunRecord | RunRow, modes: Sequence[str] | None, position: Position) -> Watched:
        return Watched(
            run_id=run.run_id,
            user_id=self._user_id,
            attempt=max(1, run.attempt) if isinstance(run, RunRow) else 1,
            modes=modes,
            subgraphs=_says(run, "stream_subgraphs"),
            resumable=_says(run, "stream_resumable"),
            position=position,
            assistant_id=run.assistant_id,
        )

    def _position(self, run: RunRow, last_event_id: str | None) -> Position:
        """Who was given no ids has none to go on after; he gets what comes from now on, and is told that
        there was more."""
        if last_event_id and _says(run, "stream_resumable"):
            return position_of(last_event_id)
        return Position(TAIL.after, begins=run.waiting, missed=bool(last_event_id) and not run.waiting)

    def _disconnected(self, run_id: str) -> OnGone:
        return partial(self._manager.disconnected, run_id, user_id=self._user_id)

    def _cancelled(self, run_id: str) -> OnGone:
        return partial(
            self._manager.cancel,
            run_id,
            cause=Cause.disconnect,
            reason="a client that watched it has gone",
            actor=self._actor,
            user_id=self._user_id,
        )


def failure_of(run: RunRow) -> dict[str, str] | None:
    """How it failed. None = it has not."""
    return failure(run.status, run.error) if run.status in FAILED else None


def _says(run: RunRecord | RunRow, key: str) -> bool:
    kwargs: dict[str, Any] = run.kwargs
    return kwargs.get(key) is True
