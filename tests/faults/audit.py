"""Checks of the store's own rows at the end of a leg. `tests.histories` checks the histories."""

from __future__ import annotations

from tests.faults.stage import Stage

_SAVED_AFTER_DEATH = """
    SELECT 'run ' || s.run_id || ' of dead epoch ' || s.epoch || ' saved ' || s.n
    FROM (SELECT min(id) AS id FROM test_saves GROUP BY run_id, n) first
    JOIN test_saves s USING (id) JOIN test_deaths d USING (epoch)
    WHERE d.by <> d.epoch AND s.id > d.save
"""
"""The first row of a value is a write of the run itself; a later one is a rollback that restores it."""

_ACTED_AFTER_DEATH = """
    SELECT 'run ' || run_id || ' was ' || what || ' (' || to_status || ') by dead epoch ' || epoch
    FROM transitions t JOIN test_deaths d USING (epoch)
    WHERE d.by <> d.epoch AND t.id > d.transition
      AND (what IN ('admitted', 'queued', 'recorded', 'claimed', 'started')
           OR to_status = 'success' AND from_status IN ('pending', 'running'))
"""

_TWO_HOLDERS = """
    SELECT thread_id || ' has ' || count(*) || ' holders' FROM runs WHERE holds_thread
    GROUP BY thread_id HAVING count(*) > 1
"""
_UNSETTLED = "SELECT run_id || ' is ' || status FROM runs WHERE settled_at IS NULL OR holds_thread"


async def audit(stage: Stage) -> None:
    """Adds violations to the stage's book."""
    for check in (_SAVED_AFTER_DEATH, _ACTED_AFTER_DEATH, _TWO_HOLDERS, _UNSETTLED):
        for (what,) in await stage.query(check):
            stage.violation(what)
    for complaint in await stage.engine.complaints():
        stage.violation(complaint)
    for table in ("runs", "workers", "transitions"):
        ((count,),) = await stage.query(f"SELECT count(*) FROM {table}")
        stage.book.counts[table] += count
    tried = sum(path.read_bytes().count(b'"LeaseLost"') for path in stage.folder.glob(f"{stage.leg}-*.jsonl"))
    stage.book.counts["writes and calls refused to workers whose lease was over"] += tried
