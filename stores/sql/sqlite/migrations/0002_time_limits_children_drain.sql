-- Time limits, children, and the hand-over of waiting runs. deadline_at, idle_timeout_ms, queue_deadline_at
-- and parent_run_id are there since 0001; how long a run may run is needed until it starts.

ALTER TABLE runs ADD COLUMN timeout_ms INTEGER;

-- What is overdue is found by its moment, however many runs there are.
CREATE INDEX runs_deadline ON runs (deadline_at) WHERE status = 'running' AND deadline_at IS NOT NULL;
CREATE INDEX runs_queue_deadline ON runs (queue_deadline_at)
    WHERE status = 'pending' AND NOT holds_thread AND queue_deadline_at IS NOT NULL;
CREATE INDEX runs_children ON runs (parent_run_id)
    WHERE parent_run_id IS NOT NULL AND status IN ('pending', 'running');

-- A waiting run that its home gives away: the epoch in the audit is the one that gave.
CREATE TRIGGER runs_audit_home AFTER UPDATE OF home_epoch ON runs
WHEN OLD.home_epoch IS NOT NEW.home_epoch AND NEW.home_epoch IS NULL
BEGIN
    INSERT INTO transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread, epoch, fence)
    VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at, 'handed over', OLD.status, NEW.status,
            NEW.holds_thread, OLD.home_epoch, NEW.fence);
END;
