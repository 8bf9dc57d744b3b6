"""Which channels of a subscription count as confirmed."""

from __future__ import annotations

from coordinator.redis.address import Address
from coordinator.redis.listener import Listener
from coordinator.redis.resp import Reply

CHANNEL = b"c"
SUBSCRIBED: Reply = [b"subscribe", CHANNEL, 1]
UNSUBSCRIBED: Reply = [b"unsubscribe", CHANNEL, 0]


class Confirmations:
    """An audience that counts the confirmed subscriptions."""

    def __init__(self) -> None:
        self.subscribed = 0

    def on_message(self, channel: bytes, payload: bytes) -> None:
        del channel, payload

    def on_subscribed(self, channel: bytes) -> None:
        assert channel == CHANNEL
        self.subscribed += 1

    def on_listening(self) -> None: ...
    def on_deaf(self) -> None: ...
    def on_away(self) -> None: ...


async def test_channel_that_is_subscribed_again_is_confirmed_by_the_last_answer_only() -> None:
    """Added, removed and added before the first answer came: what is published between the second answer and
    the third does not arrive."""
    audience = Confirmations()
    listener = Listener(Address("redis://127.0.0.1:1/0"), audience)
    try:
        listener.add(CHANNEL)
        listener.remove(CHANNEL)
        listener.add(CHANNEL)
        listener.on_replies([SUBSCRIBED, UNSUBSCRIBED])
        assert not listener.is_confirmed(CHANNEL)
        listener.on_replies([SUBSCRIBED])
        assert listener.is_confirmed(CHANNEL)
        assert audience.subscribed == 2
    finally:
        await listener.aclose()
