"""Removes the former checkpoints of a thread, in one statement: see `writing`."""

from __future__ import annotations

from langgraph.checkpoint.serde.types import TASKS

from coordinator.langgraph.savers.postgres.writing import OPEN, fenced
from coordinator.langgraph.savers.storage import DELTA_MARKS, with_delta_channel
from stores.sql.postgres.calls import Call, Query, Rows

_HAS_DELTA = Query(
    "SELECT FROM checkpoints WHERE thread_id = $1 AND metadata ?| ARRAY"
    f"[{', '.join(repr(mark) for mark in DELTA_MARKS)}] LIMIT 1"
)
_KEEP_LATEST = Query(f"""
WITH {OPEN}, newest AS MATERIALIZED (
    SELECT DISTINCT ON (checkpoint_ns) checkpoint_ns AS ns, checkpoint_id AS id,
        parent_checkpoint_id AS parent, (checkpoint ->> 'v')::int AS v, metadata -> 'parents' ->> '' AS root
    FROM checkpoints, allowed WHERE thread_id = $1 ORDER BY checkpoint_ns DESC, checkpoint_id DESC
), ended AS MATERIALIZED (
    SELECT ns FROM newest WHERE ns LIKE '%:%' AND root IS DISTINCT FROM (SELECT id FROM newest WHERE ns = '')
    AND EXISTS (
        SELECT FROM checkpoints WHERE thread_id = $1 AND checkpoint_ns = '' AND checkpoint_id = newest.root
    )
), kept AS MATERIALIZED (
    SELECT ns, id FROM newest WHERE ns NOT IN (SELECT ns FROM ended)
    UNION ALL
    SELECT ns, parent FROM newest WHERE ns NOT IN (SELECT ns FROM ended) AND v < 4 AND EXISTS (
        SELECT FROM checkpoint_writes w WHERE w.thread_id = $1 AND w.checkpoint_ns = ns
        AND w.checkpoint_id = parent AND w.channel = '{TASKS}'
    )
), used AS MATERIALIZED (
    SELECT kept.ns, version.key AS channel, version.value AS version
    FROM kept JOIN checkpoints c ON c.thread_id = $1 AND c.checkpoint_ns = ns AND c.checkpoint_id = id,
        LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') version
), checkpoints_ AS (
    DELETE FROM checkpoints USING allowed WHERE thread_id = $1
    AND (checkpoint_ns, checkpoint_id) NOT IN (SELECT ns, id FROM kept)
), parents AS (
    UPDATE checkpoints SET parent_checkpoint_id = NULL FROM allowed WHERE thread_id = $1
    AND (checkpoint_ns, checkpoint_id) IN (SELECT ns, id FROM kept)
    AND (checkpoint_ns, parent_checkpoint_id) NOT IN (SELECT ns, id FROM kept)
), writes AS (
    DELETE FROM checkpoint_writes USING allowed WHERE thread_id = $1
    AND (checkpoint_ns, checkpoint_id) NOT IN (SELECT ns, id FROM kept)
), blobs AS (
    DELETE FROM checkpoint_blobs USING allowed WHERE thread_id = $1
    AND (checkpoint_ns, channel, version) NOT IN (SELECT ns, channel, version FROM used)
)
SELECT FROM allowed
""")
"""A head of a version below 4 has its pending sends in the writes of its parent."""


def check(thread_id: str) -> Call[None]:
    """The answer raises InvalidArgument if the thread has a DeltaChannel."""

    def answer(rows: Rows) -> None:
        if rows:
            raise with_delta_channel(thread_id)

    return Call(_HAS_DELTA, (thread_id,), answer)


def keep_latest(thread_id: str, fence: int) -> Call[None]:
    """After `advance`. The answer raises StaleFence."""
    return fenced(_KEEP_LATEST, (thread_id, fence), thread_id, fence)
