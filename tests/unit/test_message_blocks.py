"""Chunks of messages in blocks of content."""

from __future__ import annotations

from typing import Any

from coordinator.runs.message_blocks import MessageBlocks


def chunk(message_id: str, text: Any, kind: str = "AIMessageChunk", **fields: Any) -> list[Any]:
    return [{"type": kind, "id": message_id, "content": text, **fields}, {}]


def shown(*data: Any) -> list[str]:
    """The events as a client shows them: `+` begins a message, `-` ends it."""
    blocks, texts = MessageBlocks(), list[str]()
    events = [event for one in data for event in blocks.events_of(one)] + list(blocks.ended())
    for event in events:
        match event["event"]:
            case "message-start":
                texts.append(f"+{event['role']} {event['id']}")
            case "content-block-start" | "content-block-finish":
                texts.append(f"={event['content']['text']}")
            case "content-block-delta":
                texts.append(event["delta"]["text"])
            case _:
                texts.append("-")
    return texts


def test_chunks_of_one_message_are_one_block() -> None:
    events = shown(chunk("a", "Hel"), chunk("a", ""), chunk("a", "lo"))
    assert events == ["+ai a", "=", "Hel", "lo", "=Hello", "-"]


def test_message_that_is_continued_begins_with_its_text() -> None:
    events = shown(chunk("a", "1"), chunk("b", "2"), chunk("a", "3"))
    assert events == [
        *("+ai a", "=", "1", "=1", "-"),
        *("+ai b", "=", "2", "=2", "-"),
        *("+ai a", "=1", "3", "=13", "-"),
    ]


def test_complete_message_ends_at_once() -> None:
    blocks = MessageBlocks()
    events: list[Any] = list(blocks.events_of(chunk("q", [{"type": "text", "text": "Hi"}, "!"], "human")))
    assert (events[0]["role"], events[-2]["content"]["text"]) == ("human", "Hi!")
    assert events[-1] == {"event": "message-finish"}
    assert list(blocks.ended()) == []
    last: list[Any] = list(blocks.events_of(chunk("a", "x", chunk_position="last")))
    assert last[-1] == {"event": "message-finish"}


def test_other_data_is_passed_on() -> None:
    blocks = MessageBlocks()
    for data in ({"content": "x"}, [], [1], [{"content": "without an id"}, {}], "text", None):
        assert list(blocks.events_of(data)) == [data]
