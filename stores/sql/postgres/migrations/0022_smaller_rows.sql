-- A run that is written as running has one row in the audit, 'started' without a status before; readers make its two lines
-- of it (stores/sql/reads.py). The audit of a run is a few rows: they are sorted, and equal keys share an index entry.
-- Building the index takes a second per million rows, in which no run is admitted and none ends.

CREATE OR REPLACE FUNCTION rc.audit_insert() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_wrong text;
BEGIN
    SELECT run_id INTO v_wrong FROM written
        WHERE kind NOT IN ('run', 'op')
           OR status NOT IN ('pending', 'running', 'success', 'error', 'timeout', 'interrupted')
           OR holds_thread AND (owner_epoch IS NULL OR settled_at IS NOT NULL);
    IF FOUND THEN
        RAISE EXCEPTION 'not a run: %', v_wrong USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO rc.transitions (run_id, thread_id, at, what, to_status, holds_thread, actor, epoch, fence)
    SELECT run_id, thread_id, updated_at,
        CASE WHEN holds_thread AND started_at IS NOT NULL THEN 'started' WHEN holds_thread THEN 'admitted'
             WHEN not_before IS NOT NULL THEN 'delayed' WHEN home_epoch IS NOT NULL THEN 'queued' ELSE 'recorded' END,
        status, holds_thread, user_id, COALESCE(owner_epoch, home_epoch), fence
    FROM written ORDER BY run_id;
    RETURN NULL;
END $$;

DROP INDEX rc.transitions_run;
CREATE INDEX transitions_run ON rc.transitions (run_id);

-- A thread is written when it is made, and updated when its first run ends: half of each page is left for that.
ALTER TABLE rc.threads SET (fillfactor = 50);
