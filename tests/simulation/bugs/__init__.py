"""Planted bugs: each guard of the real code removed or weakened once, by its text.

A bug is an edit of one function's source or of one SQL constant. Where the text is not found any more the bug
says so: whoever changed the guard moves the bug along.
"""

from __future__ import annotations

from tests.simulation.bugs import memory, store
from tests.simulation.bugs.edit import Bug

BUGS: dict[str, Bug] = {bug.name: bug for bug in (*store.BUGS, *memory.BUGS)}
