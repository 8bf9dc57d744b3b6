"""Who may write: the guard that every write of an owner carries, and the epochs that are dead."""

from __future__ import annotations

import sqlite3

from stores.rows import Decision, Ownership

LIVE = "EXISTS (SELECT 1 FROM workers WHERE epoch = runs.owner_epoch AND state <> 'dead')"
"""A worker is fenced by the declaration of its death: the sweep that ends its runs comes a moment later."""
GUARD = f"run_id = :run AND owner_epoch = :epoch AND fence = :fence AND settled_at IS NULL AND {LIVE}"
"""settled_at IS NULL: the run holds its thread, or lives beside the slot (see `insert`). Its
parameters are those of `guard`."""


def guard(own: Ownership) -> dict[str, object]:
    return {"run": own.run_id, "epoch": own.epoch, "fence": own.fence}


def is_dead(cx: sqlite3.Connection, epoch: int) -> bool:
    """Declared dead, retired, or never registered."""
    alive = cx.execute("SELECT 1 FROM workers WHERE epoch = ? AND state <> 'dead'", (epoch,)).fetchone()
    return alive is None


def is_mine(cx: sqlite3.Connection, decision: Decision, own: Ownership) -> bool:
    """The row carries the epoch and fence of `own`, and that worker is not dead."""
    return (decision.owner_epoch, decision.fence) == (own.epoch, own.fence) and not is_dead(cx, own.epoch)
