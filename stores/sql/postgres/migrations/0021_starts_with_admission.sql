-- A run may start in the transaction in which it takes its thread.

ALTER TYPE rc.admission ADD ATTRIBUTE start_ref text;  -- of the rollback; NULL = it does not start
ALTER TYPE rc.finishing ADD ATTRIBUTE following text;  -- the run that may start then; NULL = none takes the thread
ALTER TYPE rc.finishing ADD ATTRIBUTE following_ref text;

-- A run that is written as running has two lines: it was admitted and has started.
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
    INSERT INTO rc.transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread, actor, epoch, fence)
    SELECT run_id, thread_id, updated_at,
        CASE WHEN started THEN 'started' WHEN holds_thread THEN 'admitted' WHEN not_before IS NOT NULL THEN 'delayed'
             WHEN home_epoch IS NOT NULL THEN 'queued' ELSE 'recorded' END,
        CASE WHEN started THEN 'pending' END,
        CASE WHEN NOT started AND holds_thread AND started_at IS NOT NULL THEN 'pending' ELSE status END,
        holds_thread, CASE WHEN NOT started THEN user_id END, COALESCE(owner_epoch, home_epoch), fence
    FROM written, LATERAL (
        SELECT false AS started UNION ALL SELECT true WHERE holds_thread AND started_at IS NOT NULL) lines
    ORDER BY run_id, started;
    RETURN NULL;
END $$;
