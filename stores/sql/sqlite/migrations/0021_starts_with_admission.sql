-- A run may start in the transaction in which it takes its thread. A run that is written as running has two lines in the
-- audit: it was admitted and has started.

DROP TRIGGER runs_audit_insert;

CREATE TRIGGER runs_audit_insert AFTER INSERT ON runs
BEGIN
    INSERT INTO transitions (run_id, thread_id, at, what, to_status, holds_thread, actor, epoch, fence)
    VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at,
            CASE WHEN NEW.holds_thread THEN 'admitted' WHEN NEW.not_before IS NOT NULL THEN 'delayed'
                 WHEN NEW.home_epoch IS NOT NULL THEN 'queued' ELSE 'recorded' END,
            CASE WHEN NEW.holds_thread AND NEW.started_at IS NOT NULL THEN 'pending' ELSE NEW.status END,
            NEW.holds_thread, NEW.user_id, COALESCE(NEW.owner_epoch, NEW.home_epoch), NEW.fence);
    INSERT INTO transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread, epoch, fence)
    SELECT NEW.run_id, NEW.thread_id, NEW.updated_at, 'started', 'pending', NEW.status, NEW.holds_thread,
           NEW.owner_epoch, NEW.fence
    WHERE NEW.holds_thread AND NEW.started_at IS NOT NULL;
END;
