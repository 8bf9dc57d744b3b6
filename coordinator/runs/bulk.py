"""Many runs are cancelled one by one: each has its own decision, its audit and its signal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

PAGE = 500
"""Cancels that are under way at the same time."""


class Cancelled(NamedTuple):
    """`cancelled` are interrupted, by this call or another; `ended` had ended otherwise, or are gone."""

    cancelled: int = 0
    ended: int = 0


async def cancel_in_pages(
    cancel: Callable[[str], Awaitable[bool]],
    run_ids: Sequence[str],
    progress: Callable[[Cancelled], None] | None = None,
) -> Cancelled:
    """Cancel each; `progress` is told after each page. What was cancelled stays so if this breaks off. The
    first error is raised when its page is over: the rest is not cancelled."""
    done = Cancelled()
    for start in range(0, len(run_ids), PAGE):
        page = run_ids[start : start + PAGE]
        answers = await asyncio.gather(*map(cancel, page), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        cancelled = sum(answer is True for answer in answers)
        done = Cancelled(done.cancelled + cancelled, done.ended + len(page) - cancelled)
        if progress is not None:
            progress(done)
    return done
