"""Reads of the waiting runs without a live home: which of them a worker may claim, and which none can. See
functions/3_claims.sql."""

from __future__ import annotations

from stores.claims import Claimable, ClaimableQuery, Unclaimed
from stores.sql.postgres.calls import Call, Function, Rows

_CLAIMABLE = Function(
    "claimable",
    ("bigint", "bigint", "text", "text[]", "text[]", "bigint"),
    "place, thread_id, user_id, assistant_id",
)


def claimable(now: int | None, query: ClaimableQuery, epoch: int) -> Call[list[Claimable]]:
    def answer(rows: Rows) -> list[Claimable]:
        in_turn = sorted(rows, key=lambda row: row[0])  # within a place, the users' order stays
        return [Claimable(*row[1:]) for row in in_turn[: query.limit]]

    full_users = [user or "" for user in query.full_users]
    args = (epoch, query.limit, query.after or "", full_users, list(query.full_assistants), now)
    return Call(_CLAIMABLE, args, answer)


_CHILDREN = Function("claimable_children", ("bigint", "bigint", "bigint"), "thread_id, user_id, assistant_id")


def claimable_children(now: int | None, limit: int, epoch: int) -> Call[list[Claimable]]:
    return Call(_CHILDREN, (epoch, limit, now), lambda rows: [Claimable(*row) for row in rows])


_UNCLAIMED = Function("unclaimed", ("bigint",), "assistant_id, runs, since")


def unclaimed(now: int | None) -> Call[list[Unclaimed]]:
    return Call(_UNCLAIMED, (now,), lambda rows: [Unclaimed(*row) for row in rows])
