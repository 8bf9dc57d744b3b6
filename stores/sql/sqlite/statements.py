"""SQLite's transactions and reads."""

from __future__ import annotations

from stores.sql.sqlite import (
    admission,
    crons,
    decisions,
    history,
    ownership,
    pruning,
    reading,
    records,
    threads,
    webhooks,
    workers,
)
from stores.sql.statements import Statements

SQLITE = Statements(
    admission=admission,
    crons=crons,
    decisions=decisions,
    history=history,
    ownership=ownership,
    pruning=pruning,
    reading=reading,
    records=records,
    threads=threads,
    webhooks=webhooks,
    workers=workers,
)
