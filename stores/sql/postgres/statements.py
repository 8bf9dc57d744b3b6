"""PostgreSQL's transactions and reads, as calls."""

from __future__ import annotations

from stores.sql.postgres import (
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

POSTGRES = Statements(
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
