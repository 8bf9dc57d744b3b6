-- Delayed runs. not_before is there since 0001: while it is set, the run is in nobody's way; when it has come,
-- the run takes the next place in its thread's line and the column is NULL again.

CREATE INDEX runs_due ON rc.runs (not_before)
    WHERE status = 'pending' AND NOT holds_thread AND not_before IS NOT NULL;

CREATE OR REPLACE FUNCTION rc.audit_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.kind NOT IN ('run', 'op')
       OR NEW.status NOT IN ('pending', 'running', 'success', 'error', 'timeout', 'interrupted')
       OR NEW.holds_thread AND (NEW.owner_epoch IS NULL OR NEW.settled_at IS NOT NULL) THEN
        RAISE EXCEPTION 'not a run: %', NEW.run_id USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO rc.transitions (run_id, thread_id, at, what, to_status, holds_thread, actor, epoch, fence)
    VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at,
            CASE WHEN NEW.holds_thread THEN 'admitted' WHEN NEW.not_before IS NOT NULL THEN 'delayed'
                 WHEN NEW.home_epoch IS NOT NULL THEN 'queued' ELSE 'recorded' END,
            NEW.status, NEW.holds_thread, NEW.user_id, COALESCE(NEW.owner_epoch, NEW.home_epoch), NEW.fence);
    RETURN NULL;
END $$;

CREATE FUNCTION rc.audit_due() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.not_before IS NOT NULL AND NEW.not_before IS NULL THEN
        INSERT INTO rc.transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread, epoch, fence)
        VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at, 'queued', OLD.status, NEW.status,
                NEW.holds_thread, NEW.home_epoch, NEW.fence);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER runs_audit_due AFTER UPDATE OF not_before ON rc.runs
FOR EACH ROW EXECUTE FUNCTION rc.audit_due();
