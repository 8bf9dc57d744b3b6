"""One line from an error message and a hint."""

from __future__ import annotations

from coordinator.cli.text import safe


def sentence(message: str, hint: str | None) -> str:
    text = safe(message)
    if hint is None:
        return text
    return f"{text}{'' if text.endswith(('.', '!', '?')) else '.'} {safe(hint)}"
