"""SQLite's transactions and reads."""

from __future__ import annotations

from stores.sql.sqlite import (
    admission,
    decisions,
    history,
    ownership,
    pruning,
    reading,
    records,
    threads,
    workers,
)
from stores.sql.statements import Statements

SQLITE = Statements(
    admission=admission,
    decisions=decisions,
    history=history,
    ownership=ownership,
    pruning=pruning,
    reading=reading,
    records=records,
    threads=threads,
    workers=workers,
)
