"""What an engine brings: for every operation of the store's ports, one transaction or one read."""

from __future__ import annotations

from typing import Any, NamedTuple


class Statements(NamedTuple):
    """Modules with the same names and the same functions in each engine's package. What a function takes
    besides its operation's arguments, and what it answers, is between the engine and its store: over SQLite
    it is run on a connection, for PostgreSQL it answers the call that is to be made.

    Modules, and not objects: a test may replace one function to weaken the store.
    """

    admission: Any
    checkpoints: Any
    crons: Any
    decisions: Any
    events: Any
    finding: Any
    history: Any
    ownership: Any
    pruning: Any
    reading: Any
    records: Any
    threads: Any
    webhooks: Any
    workers: Any
