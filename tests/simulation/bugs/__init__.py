"""Planted bugs: each guard of the real code removed or weakened once, by its text.

A bug is an edit of one function's source or of one SQL constant. Where the text is not found any more the bug
says so: whoever changed the guard moves the bug along.
"""

from __future__ import annotations

from tests.simulation.bugs import limits, memory, store
from tests.simulation.bugs.edit import Bug

_ALL = (*store.BUGS, *memory.BUGS, *limits.BUGS)
BUGS: dict[str, Bug] = {bug.name: bug for bug in _ALL}
assert len(BUGS) == len(_ALL), "two bugs have one name"

NOT_FOUND_YET = frozenset(
    {
        "who-waits-is-ended-in-his-turn",
        "nobody-finds-the-overdue",
        "a-limit-waits-for-the-store",
        "children-of-a-failure-go-on",
        "children-of-the-dead-go-on",
        "grandchildren-go-on",
        "children-are-not-told",
        "a-stranger-cancels",
        "a-stranger-sees",
        "who-is-watched-needs-it",
        "an-end-that-is-not-told",
        "the-end-is-told-too-soon",
        "undone-without-end",
        "the-first-failure-is-the-last",
        "tried-again-with-the-old-fence",
        "a-full-outbox-takes-more",
        "what-runs-is-pruned",
        "the-young-are-pruned",
        "the-last-run-is-pruned",
        "a-key-is-pruned",
        "who-has-runs-is-pruned",
        "a-claim-without-an-answer",
        "a-lost-answer-to-a-sweep",
        "admits-while-it-drains",
        "admitted-after-it-has-left",
        "admitted-before-the-first-sweep",
        "an-unwritten-cancel-is-forgotten",
        "claim-of-what-is-not-portable",
        "handed-over-and-kept",
        "owed-for-ever",
        "put-resets-the-fence",
        "sweep-leaves-what-is-beside",
        "the-lease-begins-at-the-answer",
        "the-store-is-not-told",
        "who-drains-takes-over",
        "zombies-adopt",
    }
)
"""Guards that the simulation does not miss within the seeds of CI: another one stands before most of them (a
worker past its lease sends nothing), the rest are met too rarely."""
