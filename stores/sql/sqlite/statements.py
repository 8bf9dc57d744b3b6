"""SQLite's transactions and reads."""

from __future__ import annotations

from stores.sql.sqlite import (
    admission,
    checkpoints,
    crons,
    decisions,
    events,
    finding,
    history,
    ownership,
    pruning,
    reading,
    records,
    selecting,
    threads,
    webhooks,
    workers,
)
from stores.sql.statements import Statements

SQLITE = Statements(
    admission=admission,
    checkpoints=checkpoints,
    crons=crons,
    decisions=decisions,
    events=events,
    finding=finding,
    history=history,
    ownership=ownership,
    pruning=pruning,
    reading=reading,
    records=records,
    selecting=selecting,
    threads=threads,
    webhooks=webhooks,
    workers=workers,
)
