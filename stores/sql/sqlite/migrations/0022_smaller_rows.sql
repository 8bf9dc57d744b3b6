-- A run that is written as running has one row in the audit, 'started' without a status before; readers make its two lines
-- of it (stores/sql/reads.py).

DROP TRIGGER runs_audit_insert;

CREATE TRIGGER runs_audit_insert AFTER INSERT ON runs
BEGIN
    INSERT INTO transitions (run_id, thread_id, at, what, to_status, holds_thread, actor, epoch, fence)
    VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at,
            CASE WHEN NEW.holds_thread AND NEW.started_at IS NOT NULL THEN 'started' WHEN NEW.holds_thread THEN 'admitted'
                 WHEN NEW.not_before IS NOT NULL THEN 'delayed' WHEN NEW.home_epoch IS NOT NULL THEN 'queued'
                 ELSE 'recorded' END,
            NEW.status, NEW.holds_thread, NEW.user_id, COALESCE(NEW.owner_epoch, NEW.home_epoch), NEW.fence);
END;

-- SQLite adds the id, which is the key of the table, to each entry by itself.
DROP INDEX transitions_run;
CREATE INDEX transitions_run ON transitions (run_id);

-- A tick reads which runs a worker executes, which wait for it, and on which threads, from the indexes alone.

DROP INDEX runs_owner;
DROP INDEX runs_home;

CREATE INDEX runs_owner ON runs (owner_epoch, run_id) WHERE holds_thread;
CREATE INDEX runs_home ON runs (home_epoch, thread_id, run_id) WHERE status = 'pending' AND NOT holds_thread;

-- A page of the runs in flight, in the order of their ids, is read without the others.

CREATE INDEX runs_open ON runs (run_id) WHERE holds_thread OR status IN ('pending', 'running');
