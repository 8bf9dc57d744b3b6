-- tick: what a worker has to act on, independent of how many runs wait for other workers. A read, in one statement of
-- the worker; a function, so that the server keeps its plan, and the intended one.

-- `what`: 'cancelled', 'waiting', 'abandoned' (a batch), 'due', 'overdue' (with `cause`), of a run and its thread; 'held',
-- one row with all runs that hold a thread, as an array of JSON in `run_id`, because each of ten thousand rows costs;
-- 'drain' (when it was requested, and the grace). `free`: the thread is free, and no run is queued before this
-- one; a run behind the head cannot be claimed: a worker would try in vain at every tick.
CREATE OR REPLACE FUNCTION rc.tick(_epoch bigint, _now bigint)
RETURNS TABLE (what text, run_id text, thread_id text, free boolean, cause text) LANGUAGE plpgsql STABLE
SET jit = off
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    v_now bigint := rc.clock(_now);
    v_known text[];  -- the assistants that the worker can execute; a draining worker takes no runs over
BEGIN
    RETURN QUERY
    SELECT 'cancelled', r.run_id, r.thread_id, NULL::boolean, NULL::text FROM rc.runs r
    WHERE owner_epoch = _epoch AND settled_at IS NULL AND cancel_action IS NOT NULL;

    RETURN QUERY
    SELECT 'waiting', r.run_id, r.thread_id, not_before IS NULL AND NOT EXISTS (
               SELECT FROM rc.runs o WHERE o.thread_id = r.thread_id AND (holds_thread OR status IN ('pending', 'running'))
                 AND (holds_thread OR o.seq < r.seq AND status = 'pending' AND owner_epoch IS NULL
                      AND (home_epoch IS NOT NULL OR portable) AND not_before IS NULL)), NULL::text
    FROM rc.runs r WHERE home_epoch = _epoch AND status = 'pending' AND NOT holds_thread;

    SELECT assistants INTO v_known FROM rc.workers WHERE epoch = _epoch AND state = 'live';
    IF cardinality(v_known) > 0 THEN
        RETURN QUERY
        SELECT 'abandoned', w.run_id, w.thread_id, true, NULL::text FROM (
            SELECT theirs.* FROM rc.gone(NULL), LATERAL (
                SELECT r.run_id, r.thread_id, r.seq FROM rc.runs r
                WHERE COALESCE(home_epoch, 0) > after AND COALESCE(home_epoch, 0) < before
                  AND status = 'pending' AND NOT holds_thread AND portable
                  AND owner_epoch IS NULL AND not_before IS NULL AND assistant_id = ANY (v_known) OFFSET 0) theirs
        ) w WHERE NOT EXISTS (
               SELECT FROM rc.runs o WHERE o.thread_id = w.thread_id AND (holds_thread OR status IN ('pending', 'running'))
                 AND (holds_thread OR o.seq < w.seq AND status = 'pending' AND owner_epoch IS NULL
                      AND (home_epoch IS NOT NULL OR portable) AND not_before IS NULL))
        LIMIT 200;
    END IF;

    RETURN QUERY
    SELECT 'due', d.run_id, d.thread_id, true, NULL::text FROM (
        SELECT * FROM rc.runs
        WHERE status = 'pending' AND NOT holds_thread AND not_before IS NOT NULL AND not_before <= v_now
        ORDER BY not_before, run_id OFFSET 0  -- by runs_due alone
    ) d
    WHERE home_epoch = _epoch
       OR portable AND owner_epoch IS NULL AND assistant_id = ANY (v_known)
          AND NOT EXISTS (SELECT FROM rc.workers WHERE epoch = home_epoch AND state <> 'dead')
    LIMIT 100;

    RETURN QUERY
    (SELECT 'overdue', r.run_id, r.thread_id, true, 'timeout' FROM rc.runs r
     WHERE status = 'running' AND deadline_at IS NOT NULL AND deadline_at <= v_now
     ORDER BY deadline_at, r.run_id LIMIT 100)
    UNION ALL
    (SELECT 'overdue', r.run_id, r.thread_id, true, 'queue_timeout' FROM rc.runs r
     WHERE status = 'pending' AND NOT holds_thread AND queue_deadline_at IS NOT NULL AND queue_deadline_at <= v_now
     ORDER BY queue_deadline_at, r.run_id LIMIT 100);

    RETURN QUERY
    SELECT 'held', COALESCE(json_agg(r.run_id), '[]')::text, NULL::text, true, NULL::text FROM rc.runs r
    WHERE owner_epoch = _epoch AND holds_thread;

    RETURN QUERY
    SELECT 'drain', drain_asked_at::text, drain_grace_ms::text, true, NULL::text FROM rc.workers
    WHERE epoch = _epoch AND drain_asked_at IS NOT NULL;
END $$;
