"""Chunks of messages in blocks of content, the form of the Agent Streaming Protocol.

Code emits `messages` as a pair of a chunk and its metadata. In a run that a client of the protocol has
started, each pair becomes events of the protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from coordinator.schemas import Json
from stores.json_values import JsonObject

_ROLES = {"human": "human", "user": "human", "system": "system", "tool": "tool"}
_CHUNK = "Chunk"
"""Suffix of the type of a message that is not complete."""


class MessageBlocks:
    """The messages of one attempt. Chunks with the same id are one message. The message that is open ends
    when another one begins: a client has one open message at a time."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._open: str | None = None

    def events_of(self, data: Json) -> Iterator[Json]:
        """Yields the events of a pair. Other data is passed on."""
        chunk = _chunk_of(data)
        if chunk is None:
            yield data
            return
        message_id, kind = str(chunk["id"]), str(chunk.get("type"))
        text = text_of(chunk.get("content"))
        if message_id != self._open:
            yield from self.ended()
            yield from self._begun(message_id, kind)
        if text:
            self._texts[message_id] += text
            delta = {"type": "text-delta", "text": text}
            yield {"event": "content-block-delta", "index": 0, "delta": delta}
        if not kind.endswith(_CHUNK) or chunk.get("chunk_position") == "last":
            yield from self.ended()

    def _begun(self, message_id: str, kind: str) -> Iterator[Json]:
        """A message that has ended continues with the text that it had."""
        self._open = message_id
        block = {"type": "text", "text": self._texts.setdefault(message_id, "")}
        role = _ROLES.get(kind.removesuffix(_CHUNK).removesuffix("Message").lower(), "ai")
        yield {"event": "message-start", "role": role, "id": message_id}
        yield {"event": "content-block-start", "index": 0, "content": block}

    def ended(self) -> Iterator[Json]:
        """Yields the end of the open message, if there is one."""
        if self._open is None:
            return
        block = {"type": "text", "text": self._texts[self._open]}
        self._open = None
        yield {"event": "content-block-finish", "index": 0, "content": block}
        yield {"event": "message-finish"}


def _chunk_of(data: Json) -> JsonObject | None:
    if not isinstance(data, (list, tuple)) or not data:
        return None
    first: Json = cast("list[Json]", data)[0]
    chunk = cast("JsonObject", first) if isinstance(first, dict) else {}
    return chunk if chunk.get("id") else None


def text_of(content: Json) -> str:
    """Returns the text of a message's content, which is a string or a list of blocks."""
    if isinstance(content, str):
        return content
    blocks = cast("list[Json]", content) if isinstance(content, list) else []
    return "".join(map(_text_of_block, blocks))


def _text_of_block(block: Json) -> str:
    if isinstance(block, dict):
        return str(cast("JsonObject", block).get("text") or "")
    return str(block)
