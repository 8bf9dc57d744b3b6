"""PostgreSQL's transactions and reads, as calls."""

from __future__ import annotations

from stores.sql.postgres import (
    admission,
    assistants,
    attempts,
    checkpoints,
    claims,
    crons,
    decisions,
    events,
    finding,
    history,
    ownership,
    projections,
    pruning,
    reading,
    records,
    selecting,
    thread_states,
    threads,
    webhooks,
    workers,
)
from stores.sql.statements import Statements

POSTGRES = Statements(
    admission=admission,
    assistants=assistants,
    attempts=attempts,
    checkpoints=checkpoints,
    claims=claims,
    crons=crons,
    decisions=decisions,
    events=events,
    finding=finding,
    history=history,
    ownership=ownership,
    projections=projections,
    pruning=pruning,
    reading=reading,
    records=records,
    selecting=selecting,
    thread_states=thread_states,
    threads=threads,
    webhooks=webhooks,
    workers=workers,
)
