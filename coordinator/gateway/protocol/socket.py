"""A WebSocket of one client for one thread: commands in, their answers and events out.

Each event goes out once, in the order of the thread, if one of the socket's subscriptions includes it. A
further subscription gets what it includes of the events before, which the others did not, and then the order
continues. A client that reads slowly is read for slowly: nothing is buffered but what the connection holds.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from json import JSONDecodeError
from typing import NamedTuple, cast
from uuid import uuid4

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from coordinator.errors import CoordinatorError, Draining, RunNotFound, ThreadNotFound
from coordinator.gateway.caller import Caller
from coordinator.gateway.long_lived_responses import ResponseAborted, StreamSlot
from coordinator.gateway.protocol.channels import Address, Subscription
from coordinator.gateway.protocol.commands import CommandRefused, Commands, error, model
from coordinator.gateway.protocol.permission import permitted
from coordinator.gateway.protocol.thread_events import Item, ThreadEvents
from coordinator.gateway.services import Services
from coordinator.gateway.wire import weight
from coordinator.gateway.wire.json import encoded, parsed
from coordinator.gateway.wire.protocol import Command, EventStreamRequest, Reconnect, Unsubscribe
from stores.json_values import Json, JsonObject
from stores.tasks import begin_soon

logger = logging.getLogger(__name__)

RESTARTS, TOO_BIG, NOT_TEXT, FAILED, UNKNOWN, NOT_FOUND = 1012, 1009, 1003, 1011, 4401, 4404
"""Close codes. 4000 and more are 4000 plus a status of HTTP, by which clients know what not to repeat."""
MAX_SUBSCRIPTIONS = 64
REPLAYED_WITHIN = 1.0
"""Seconds for which a replay waits for its next event: it has reached the end of what is kept."""


class Union(NamedTuple):
    subscriptions: tuple[Subscription, ...]

    def includes(self, address: Address) -> bool:
        return any(one.includes(address) for one in self.subscriptions)


class Added(NamedTuple):
    """What a further subscription includes, and the ones before it do not."""

    subscription: Subscription
    before: Union

    def includes(self, address: Address) -> bool:
        return self.subscription.includes(address) and not self.before.includes(address)


class EventSocket:
    def __init__(self, socket: WebSocket, services: Services, caller: Caller, thread_id: str) -> None:
        self._socket, self._services, self._caller = socket, services, caller
        self._thread_id = thread_id
        self._subscriptions: dict[str, Subscription] = {}
        self._live: ThreadEvents | None = None
        self._subscribed: asyncio.Future[ThreadEvents] = asyncio.get_running_loop().create_future()
        self._replay: tuple[ThreadEvents, int] | None = None
        """The reader of what was before a further subscription, and the place up to which it reads."""
        self._sending = asyncio.Lock()

    async def serve(self, slot: StreamSlot) -> None:
        """Returns when the client has closed the socket, or it was closed. A worker that drains closes it,
        and the client comes back to another one."""
        sender = begin_soon(self._send_until_over())
        with self._services.watchers.track(slot, sender):
            try:
                await self._receive()
            finally:
                sender.cancel()
                await asyncio.wait((sender,))

    async def _send_until_over(self) -> None:
        """Closes the socket when no further event can be sent, which ends `_receive`."""
        try:
            await self._send()
        except asyncio.CancelledError:
            await self._close(RESTARTS)
            raise
        except (WebSocketDisconnect, OSError):
            return
        except ThreadNotFound:
            await self._close(NOT_FOUND, "the thread was deleted")
        except (ResponseAborted, Draining):
            await self._close(RESTARTS)
        except Exception as failed:
            if not isinstance(failed, CoordinatorError):
                logger.exception("A socket of thread %r failed", self._thread_id)
            await self._close(FAILED)

    async def _close(self, code: int, reason: str | None = None) -> None:
        with suppress(RuntimeError, OSError, WebSocketDisconnect):  # it is closed already
            await self._socket.close(code, reason)

    # -- events

    async def _send(self) -> None:
        live = await self._subscribed
        async with live:
            while True:
                items = await live.batch(_LONG)
                async with self._sending:
                    await self._send_items(items)

    async def _send_replay(self, events: ThreadEvents, until: int) -> None:
        async with self._sending, events:
            while events.seq < until:
                items = await events.batch(REPLAYED_WITHIN, until=until)
                if not items:
                    return
                await self._send_items([item for item in items if item.seq <= until])

    async def _send_items(self, items: list[Item]) -> None:
        for item in items:
            await self._socket.send({"type": "websocket.send", "text": item.body.decode()})

    # -- commands

    async def _receive(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text: str | None = message.get("text")
            if text is None:
                await self._close(NOT_TEXT, "commands are text")
                return
            if len(text) > self._services.settings.max_body_bytes:
                await self._close(TOO_BIG, "the command is too large")
                return
            if not await self._identified():
                await self._close(UNKNOWN, "the caller is not authenticated any more")
                return
            answer = encoded(await self._answer(text)).decode()
            with suppress(OSError, WebSocketDisconnect):  # the next message is the disconnect
                async with self._sending:
                    if self._socket.application_state is not WebSocketState.CONNECTED:
                        return  # closed while the command was executed
                    await self._socket.send_text(answer)
                if self._replay is not None:
                    replay, self._replay = self._replay, None
                    await self._send_replay(*replay)

    async def _identified(self) -> bool:
        """Identifies the caller again: its key may have been revoked, or may have another role."""
        try:
            caller = await self._socket.scope["state"]["identify"]()
        except (HTTPException, CoordinatorError):
            return False
        if caller is None or caller.user_id != self._caller.user_id:
            return False
        self._caller = caller
        return True

    async def _answer(self, text: str) -> JsonObject:
        command_id: int | None = None
        try:
            content = _object_in(text)
            command_id = _id_in(content)
            self._check_rate()
            return await self._execute(content)
        except CommandRefused as refused:
            return error(command_id, refused.code, str(refused))
        except HTTPException as refused:
            return error(command_id, _code_of(refused), str(refused.detail))
        except CoordinatorError as failed:
            return error(command_id, _code_of(failed), str(failed))
        except Exception:
            logger.exception("A command for thread %r failed", self._thread_id)
            return error(command_id, "unknown_error", "internal error: see the log of this worker")

    def _check_rate(self) -> None:
        take = self._socket.scope.get("state", {}).get("take")
        if take is not None and take() is not None:
            raise CommandRefused("unknown_error", "too many requests")

    async def _execute(self, content: JsonObject) -> JsonObject:
        given = model(Command, content)
        params = given.params
        match given.method:
            case "subscription.subscribe":
                result = self._subscribe(model(EventStreamRequest, params), str(uuid4()))
            case "subscription.reconnect":
                again = model(Reconnect, params)
                result = {**self._subscribe(again, again.subscription_id or str(uuid4())), "restored": True}
            case "subscription.unsubscribe":
                result = self._unsubscribe(model(Unsubscribe, params).subscription_id)
            case _:
                fields = await permitted(self._socket, self._caller, self._thread_id, content)
                commands = Commands(self._services, self._caller, self._thread_id)
                return await commands.handle(model(Command, fields))
        return {"type": "success", "id": given.id, "result": result}

    def _subscribe(self, request: EventStreamRequest, subscription_id: str) -> JsonObject:
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise CommandRefused("invalid_argument", f"a socket may have {MAX_SUBSCRIPTIONS} subscriptions")
        before, added = Union(tuple(self._subscriptions.values())), request.subscription
        if self._live is None:
            self._live = self._reader(Union((added,)), request.since)
        else:
            self._replay = self._reader(Added(added, before), request.since), self._live.seq
        self._subscriptions[subscription_id] = added
        self._live.selection = Union(tuple(self._subscriptions.values()))
        if not self._subscribed.done():
            self._subscribed.set_result(self._live)
        return {"subscription_id": subscription_id}

    def _unsubscribe(self, subscription_id: str) -> JsonObject:
        if self._live is None or subscription_id not in self._subscriptions:
            raise CommandRefused("no_such_subscription", f"there is no subscription {subscription_id!r:.80}")
        del self._subscriptions[subscription_id]
        self._live.selection = Union(tuple(self._subscriptions.values()))
        return {}

    def _reader(self, selection: Union | Added, since: int | None) -> ThreadEvents:
        return ThreadEvents(
            self._services.manager,
            self._thread_id,
            selection,
            user_id=self._caller.user_id,
            since=since,
            may_be_new=True,
        )


_LONG = 3600.0


def _object_in(text: str) -> JsonObject:
    body = text.encode("utf-8", "surrogatepass")
    if weight.at_most(body) > weight.MAX_VALUES:
        raise CommandRefused("invalid_argument", f"the command has more than {weight.MAX_VALUES} values")
    try:
        content: Json = parsed(body)
    except JSONDecodeError as invalid:
        raise CommandRefused("invalid_argument", f"the command is not JSON: {invalid.msg}") from None
    if not isinstance(content, dict):
        raise CommandRefused("invalid_argument", "the command must be a JSON object")
    return cast("JsonObject", content)


def _id_in(content: JsonObject) -> int | None:
    command_id: Json = content.get("id")
    return command_id if isinstance(command_id, int) and not isinstance(command_id, bool) else None


def _code_of(refused: Exception) -> str:
    if isinstance(refused, (ThreadNotFound, RunNotFound)):
        return "no_such_run"
    if isinstance(refused, HTTPException) and refused.status_code in (401, 403):
        return "permission_denied"
    return "invalid_argument" if isinstance(refused, ValidationError) else "unknown_error"
