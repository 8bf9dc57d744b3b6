-- Time limits, children, and the hand-over of waiting runs. deadline_at, idle_timeout_ms, queue_deadline_at
-- and parent_run_id are there since 0001; how long a run may run is needed until it starts.

ALTER TABLE rc.runs ADD COLUMN timeout_ms bigint;

-- What is overdue is found by its moment, however many runs there are.
CREATE INDEX runs_deadline ON rc.runs (deadline_at) WHERE status = 'running' AND deadline_at IS NOT NULL;
CREATE INDEX runs_queue_deadline ON rc.runs (queue_deadline_at)
    WHERE status = 'pending' AND NOT holds_thread AND queue_deadline_at IS NOT NULL;
CREATE INDEX runs_children ON rc.runs (parent_run_id)
    WHERE parent_run_id IS NOT NULL AND status IN ('pending', 'running');

-- A waiting run that its home gives away: the epoch in the audit is the one that gave. Claims write the
-- column as well, so that the function looks before it writes.
CREATE FUNCTION rc.audit_home() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.home_epoch IS NOT NULL AND NEW.home_epoch IS NULL THEN
        INSERT INTO rc.transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread, epoch, fence)
        VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at, 'handed over', OLD.status, NEW.status,
                NEW.holds_thread, OLD.home_epoch, NEW.fence);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER runs_audit_home AFTER UPDATE OF home_epoch ON rc.runs
FOR EACH ROW EXECUTE FUNCTION rc.audit_home();
