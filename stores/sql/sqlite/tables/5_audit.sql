-- Every change of a run's status, slot, owner or fence, in commit order. Triggers write it, so that no transaction has
-- to, and none can leave it out. Without AUTOINCREMENT, whose own table would be written three times per run (5 % of
-- its cost): ids grow in commit order; only those of rows that were the newest when they were deleted are reused.
CREATE TABLE transitions (
    id           INTEGER PRIMARY KEY,
    run_id       TEXT NOT NULL,
    thread_id    TEXT NOT NULL,
    at           INTEGER NOT NULL,
    what         TEXT NOT NULL,  -- admitted, queued, claimed, started, decided, finished, settled, ...
    from_status  TEXT,
    to_status    TEXT NOT NULL,
    holds_thread INTEGER NOT NULL,
    cause        TEXT,
    actor        TEXT,
    epoch        INTEGER,        -- of the owner, else of the home
    fence        INTEGER NOT NULL,
    detail       TEXT            -- the reason of a cancel
) STRICT;

CREATE INDEX transitions_run ON transitions (run_id, id);

CREATE TRIGGER runs_audit_insert AFTER INSERT ON runs
BEGIN
    INSERT INTO transitions (run_id, thread_id, at, what, to_status, holds_thread, actor, epoch, fence)
    VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at,
            CASE WHEN NEW.holds_thread THEN 'admitted' WHEN NEW.not_before IS NOT NULL THEN 'delayed'
                 WHEN NEW.home_epoch IS NOT NULL THEN 'queued' ELSE 'recorded' END,
            NEW.status, NEW.holds_thread, NEW.user_id, COALESCE(NEW.owner_epoch, NEW.home_epoch), NEW.fence);
END;

CREATE TRIGGER runs_audit_update AFTER UPDATE OF status, holds_thread, owner_epoch, fence ON runs
WHEN OLD.status IS NOT NEW.status OR OLD.holds_thread IS NOT NEW.holds_thread
  OR OLD.owner_epoch IS NOT NEW.owner_epoch OR OLD.fence IS NOT NEW.fence
BEGIN
    INSERT INTO transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread,
                             cause, actor, epoch, fence, detail)
    VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at,
            CASE WHEN NEW.holds_thread AND NOT OLD.holds_thread THEN 'claimed'
                 WHEN OLD.status IS NOT NEW.status AND NEW.status = 'running' THEN 'started'
                 WHEN OLD.status IS NOT NEW.status AND NEW.settled_at IS NOT NULL THEN 'finished'
                 WHEN OLD.status IS NOT NEW.status THEN 'decided'
                 WHEN OLD.holds_thread AND NOT NEW.holds_thread THEN 'settled'
                 WHEN OLD.owner_epoch IS NOT NEW.owner_epoch THEN 'adopted'
                 ELSE 'fenced' END,
            OLD.status, NEW.status, NEW.holds_thread,
            CASE WHEN NEW.status NOT IN ('pending', 'running') THEN NEW.cancel_cause END,
            CASE WHEN NEW.status NOT IN ('pending', 'running') THEN NEW.cancel_actor END,
            COALESCE(NEW.owner_epoch, NEW.home_epoch), NEW.fence,
            CASE WHEN NEW.status NOT IN ('pending', 'running') THEN NEW.cancel_reason END);
END;

-- A waiting run was handed over: the audit names the epoch that was its home.
CREATE TRIGGER runs_audit_home AFTER UPDATE OF home_epoch ON runs
WHEN OLD.home_epoch IS NOT NEW.home_epoch AND NEW.home_epoch IS NULL
BEGIN
    INSERT INTO transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread, epoch, fence)
    VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at, 'handed over', OLD.status, NEW.status,
            NEW.holds_thread, OLD.home_epoch, NEW.fence);
END;

-- A delayed run has joined the queue.
CREATE TRIGGER runs_audit_due AFTER UPDATE OF not_before ON runs
WHEN OLD.not_before IS NOT NULL AND NEW.not_before IS NULL
BEGIN
    INSERT INTO transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread, epoch, fence)
    VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at, 'queued', OLD.status, NEW.status,
            NEW.holds_thread, NEW.home_epoch, NEW.fence);
END;
