-- Changes of runs that wait for the projections of a deployment. Triggers queue them, which are made with the first
-- projection and dropped with the last (stores/sql/sqlite/projections.py): without one, a run costs nothing more.
CREATE TABLE projections (
    name          TEXT PRIMARY KEY NOT NULL,
    filled_to     TEXT,            -- runs up to this id have been queued; NULL = all that existed
    claimed_by    INTEGER,         -- the epoch that delivers
    claimed_until INTEGER,
    created_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: a projection compares the numbers of a run's changes, also of those that were delivered long ago.
CREATE TABLE run_changes (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    projection TEXT NOT NULL,
    run_id     TEXT NOT NULL,
    thread_id  TEXT NOT NULL,
    at         INTEGER NOT NULL,
    what       TEXT NOT NULL,  -- as in transitions; or existing, amended, deleted
    attempts   INTEGER NOT NULL DEFAULT 0,
    next_at    INTEGER,        -- a delivery has failed: the changes of its thread wait until then
    error      TEXT
) STRICT;

CREATE INDEX run_changes_order ON run_changes (projection, seq);
CREATE INDEX run_changes_failed ON run_changes (projection, thread_id) WHERE next_at IS NOT NULL;
CREATE INDEX run_changes_run ON run_changes (run_id);

-- Workers that admit runs for others. Such a run waits without a home, which its audit names as queued.
ALTER TABLE workers ADD COLUMN admits_only INTEGER NOT NULL DEFAULT 0 CHECK (admits_only IN (0, 1));

DROP TRIGGER runs_audit_insert;

CREATE TRIGGER runs_audit_insert AFTER INSERT ON runs
BEGIN
    INSERT INTO transitions (run_id, thread_id, at, what, to_status, holds_thread, actor, epoch, fence)
    VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at,
            CASE WHEN NEW.holds_thread AND NEW.started_at IS NOT NULL THEN 'started' WHEN NEW.holds_thread THEN 'admitted'
                 WHEN NEW.not_before IS NOT NULL THEN 'delayed'
                 WHEN NEW.owner_epoch IS NULL AND (NEW.home_epoch IS NOT NULL OR NEW.portable) THEN 'queued'
                 ELSE 'recorded' END,
            NEW.status, NEW.holds_thread, NEW.user_id, COALESCE(NEW.owner_epoch, NEW.home_epoch), NEW.fence);
END;
