-- worker_tick: what a worker has to act on. A read, in one statement of the worker; a function, so that the server keeps
-- its plans, and the intended ones. Runs that wait for other workers are not read; of those that wait for this one, the
-- ids are read, and one index entry for each of their threads.
--
-- (SELECT _epoch) in place of _epoch: the planner then estimates the same rows whichever the epoch, and keeps the plan.
-- With the value itself it would make a plan for each call. random_page_cost = 0 and ORDER BY: the index by the epoch is
-- chosen, also where a worker has a large share of all runs, and where the planner believes that none is in flight.

-- `what`: 'cancelled' and 'overdue' (with `cause`), of a run; 'free', of a thread whose next run this worker may claim;
-- 'not held', of one of the runs `_executing` that does not hold its thread for this worker; 'waiting', one row with all runs
-- that wait, as an array of JSON in `run_id`, because each of ten thousand rows costs; 'drain' (when it was requested, and
-- the grace). A thread is not free for a run behind the head of its queue, which cannot be claimed: a worker would try in
-- vain at every tick.
--
-- The runs `_executing` are compared with what the worker holds. The index of that has an entry for each run that the worker
-- has executed since the oldest transaction of the database began: with many dead rows they are looked up by their ids,
-- which costs five times as much for each. COALESCE: of no partial index.
CREATE OR REPLACE FUNCTION rc.worker_tick(_epoch bigint, _executing text[], _now bigint)
RETURNS TABLE (what text, run_id text, thread_id text, cause text) LANGUAGE plpgsql STABLE
SET jit = off SET random_page_cost = 0
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    v_now bigint := rc.clock(_now);
    v_known text[];  -- the assistants that the worker can execute; a draining worker takes no runs over
    v_waiting text[];
    v_threads text[];
BEGIN
    RETURN QUERY
    SELECT 'cancelled', r.run_id, NULL::text, NULL::text FROM rc.runs r
    WHERE owner_epoch = (SELECT _epoch) AND settled_at IS NULL AND cancel_action IS NOT NULL;

    IF pg_stat_get_dead_tuples('rc.runs'::regclass) < 500 + 10 * cardinality(_executing) THEN
        RETURN QUERY
        SELECT 'not held', mine.run_id, NULL::text, NULL::text FROM (
            SELECT unnest(_executing) AS run_id EXCEPT
            SELECT * FROM (
                SELECT r.run_id FROM rc.runs r WHERE owner_epoch BETWEEN (SELECT _epoch) AND (SELECT _epoch) AND holds_thread
                ORDER BY owner_epoch OFFSET 0) held
        ) mine;
    ELSE
        RETURN QUERY
        SELECT 'not held', mine.run_id, NULL::text, NULL::text FROM unnest(_executing) mine (run_id)
        WHERE NOT EXISTS (SELECT FROM rc.runs r WHERE r.run_id = mine.run_id AND COALESCE(owner_epoch, 0) = _epoch
                          AND COALESCE(holds_thread, false) OFFSET 0);
    END IF;

    SELECT COALESCE(array_agg(mine.run_id), '{}'), array_agg(DISTINCT mine.thread_id) INTO v_waiting, v_threads
    FROM (
        SELECT r.run_id, r.thread_id FROM rc.runs r
        WHERE home_epoch BETWEEN (SELECT _epoch) AND (SELECT _epoch) AND status = 'pending' AND NOT holds_thread
        ORDER BY home_epoch OFFSET 0
    ) mine;
    RETURN QUERY SELECT 'waiting', array_to_json(v_waiting)::text, NULL::text, NULL::text;
    IF v_threads IS NOT NULL THEN
        RETURN QUERY
        SELECT 'free', NULL::text, mine.thread_id, NULL::text FROM (
            SELECT thread_id FROM unnest(v_threads) waiting (thread_id)
            WHERE NOT EXISTS (SELECT FROM rc.runs o WHERE o.thread_id = waiting.thread_id AND holds_thread OFFSET 0) OFFSET 0
        ) mine
        WHERE EXISTS (
            SELECT FROM rc.runs r
            WHERE r.thread_id = mine.thread_id AND home_epoch = _epoch AND status = 'pending' AND NOT holds_thread
              AND not_before IS NULL AND NOT EXISTS (
                SELECT FROM rc.runs o
                WHERE o.thread_id = r.thread_id AND (holds_thread OR status IN ('pending', 'running'))
                  AND o.seq < r.seq AND status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL
                  AND (home_epoch IS NOT NULL OR portable) AND not_before IS NULL));
    END IF;

    SELECT assistants INTO v_known FROM rc.workers WHERE epoch = _epoch AND state = 'live';
    IF cardinality(v_known) > 0 THEN
        RETURN QUERY
        SELECT 'free', NULL::text, w.thread_id, NULL::text FROM (
            SELECT theirs.* FROM rc.gone(NULL), LATERAL (
                SELECT r.thread_id, r.seq FROM rc.runs r
                WHERE COALESCE(home_epoch, 0) > after AND COALESCE(home_epoch, 0) < before
                  AND status = 'pending' AND NOT holds_thread AND portable
                  AND owner_epoch IS NULL AND not_before IS NULL
                  AND assistant_id = ANY ((SELECT v_known)::text[]) OFFSET 0) theirs
        ) w WHERE NOT EXISTS (
               SELECT FROM rc.runs o WHERE o.thread_id = w.thread_id AND (holds_thread OR status IN ('pending', 'running'))
                 AND (holds_thread OR o.seq < w.seq AND status = 'pending' AND owner_epoch IS NULL
                      AND (home_epoch IS NOT NULL OR portable) AND not_before IS NULL))
        LIMIT 200;
    END IF;

    -- Usually none is due or overdue: the first entry of each index decides.
    IF v_now >= (SELECT not_before FROM rc.runs
                 WHERE status = 'pending' AND NOT holds_thread AND not_before IS NOT NULL
                 ORDER BY not_before LIMIT 1) THEN
        RETURN QUERY
        SELECT 'free', NULL::text, d.thread_id, NULL::text FROM (
            SELECT * FROM rc.runs
            WHERE status = 'pending' AND NOT holds_thread AND not_before IS NOT NULL AND not_before <= v_now
            ORDER BY not_before, run_id OFFSET 0  -- by runs_due alone
        ) d
        WHERE home_epoch = _epoch
           OR portable AND owner_epoch IS NULL AND assistant_id = ANY (v_known)
              AND NOT EXISTS (SELECT FROM rc.workers WHERE epoch = home_epoch AND state <> 'dead')
        LIMIT 100;
    END IF;
    IF v_now >= (SELECT deadline_at FROM rc.runs WHERE status = 'running' AND deadline_at IS NOT NULL
                 ORDER BY deadline_at LIMIT 1) THEN
        RETURN QUERY
        SELECT 'overdue', r.run_id, NULL::text, 'timeout' FROM rc.runs r
        WHERE status = 'running' AND deadline_at IS NOT NULL AND deadline_at <= v_now
        ORDER BY deadline_at, r.run_id LIMIT 100;
    END IF;
    IF v_now >= (SELECT queue_deadline_at FROM rc.runs
                 WHERE status = 'pending' AND NOT holds_thread AND queue_deadline_at IS NOT NULL
                 ORDER BY queue_deadline_at LIMIT 1) THEN
        RETURN QUERY
        SELECT 'overdue', r.run_id, NULL::text, 'queue_timeout' FROM rc.runs r
        WHERE status = 'pending' AND NOT holds_thread AND queue_deadline_at IS NOT NULL AND queue_deadline_at <= v_now
        ORDER BY queue_deadline_at, r.run_id LIMIT 100;
    END IF;

    RETURN QUERY
    SELECT 'drain', drain_asked_at::text, drain_grace_ms::text, NULL::text FROM rc.workers
    WHERE epoch = _epoch AND drain_asked_at IS NOT NULL;
END $$;

-- The same for workers of the previous release: a row for each run that waits, and 'held' with all runs that hold a thread, as
-- an array of JSON.
CREATE OR REPLACE FUNCTION rc.tick(_epoch bigint, _now bigint)
RETURNS TABLE (what text, run_id text, thread_id text, free boolean, cause text) LANGUAGE sql STABLE AS $$
    SELECT CASE what WHEN 'free' THEN 'due' ELSE what END, lines.run_id, thread_id, what <> 'waiting', cause
    FROM rc.worker_tick(_epoch, '{}', _now) ticked, LATERAL (
        SELECT ticked.run_id WHERE what <> 'waiting'
        UNION ALL
        SELECT json_array_elements_text(ticked.run_id::json) WHERE what = 'waiting') lines
    UNION ALL
    SELECT 'held', COALESCE(json_agg(r.run_id), '[]')::text, NULL, true, NULL FROM rc.runs r
    WHERE owner_epoch = _epoch AND holds_thread
$$;
