-- Further attempts of a run whose worker has died or drains: it keeps its thread, and gets another owner. Between two
-- attempts the run is open, holds its thread, and `stopped_at` is set.

-- How many of its workers have died before they started the run. Workers that have signed off have fenced themselves.
CREATE OR REPLACE FUNCTION rc.deaths_before_start(_run rc.runs) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN (_run).status = 'pending' AND (_run).holds_thread THEN (
        SELECT count(DISTINCT w.epoch) FROM rc.transitions t JOIN rc.workers w ON w.epoch = t.epoch
        WHERE t.run_id = (_run).run_id AND t.holds_thread AND w.state = 'dead' AND w.fenced_by <> w.epoch) ELSE 0 END
$$;

-- It may have a further attempt: its worker has handed it over, it has retries left, or it has not started, so that
-- nothing is repeated. It ends with the third worker that dies before it has started the run, which may be what kills
-- them.
CREATE OR REPLACE FUNCTION rc.may_continue(_run rc.runs) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT (_run).holds_thread AND (_run).portable AND CASE (_run).status
        WHEN 'pending' THEN rc.deaths_before_start(_run) < 3
        WHEN 'running' THEN (_run).stopped_at IS NOT NULL OR (_run).retries > 0
        ELSE false END
$$;

-- The run of a dead worker is left to a worker that can continue it: one is registered, or may be soon.
CREATE OR REPLACE FUNCTION rc.waits_for_attempt(_run rc.runs, _patience bigint, _now bigint) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT rc.may_continue(_run) AND (
        EXISTS (SELECT FROM rc.workers WHERE epoch = (_run).owner_epoch AND fenced_at >= _now - _patience)
        OR EXISTS (SELECT FROM rc.workers WHERE state = 'live' AND (_run).assistant_id = ANY (assistants)))
$$;

-- The task of the run has stopped undecided, and this worker does not continue it. It remains the owner until a sweep
-- gives the run to another worker. Repeatable; writes nothing where the run was decided. No row = lost.
CREATE OR REPLACE FUNCTION rc.hand_over(_run_id text, _epoch bigint, _fence bigint, _now bigint)
RETURNS SETOF rc.standing LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_state text;
BEGIN
    PERFORM FROM rc.runs WHERE run_id = _run_id FOR NO KEY UPDATE;
    v_state := rc.lock_worker(_epoch);
    IF v_state IS NULL OR v_state = 'dead' THEN
        RETURN;
    END IF;
    UPDATE rc.runs SET stopped_at = rc.clock(_now), updated_at = rc.clock(_now)
        WHERE run_id = _run_id AND owner_epoch = _epoch AND fence = _fence AND settled_at IS NULL
          AND holds_thread AND portable AND status IN ('pending', 'running') AND stopped_at IS NULL;
    IF FOUND THEN
        INSERT INTO rc.transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread, epoch, fence)
        SELECT run_id, thread_id, updated_at, 'handed over', status, status, holds_thread, owner_epoch, fence
            FROM rc.runs WHERE run_id = _run_id;
    END IF;
    RETURN QUERY SELECT (rc.stands(_run_id)).* FROM rc.runs
        WHERE run_id = _run_id AND owner_epoch = _epoch AND fence = _fence;
END $$;

-- As `orphaned`, and with the runs that draining workers have handed over. `way`: 'adopt' and 'handed over' = `_by` may continue
-- the run; 'end'. Runs that wait for another worker are left out.
CREATE OR REPLACE FUNCTION rc.orphans(_by bigint, _only bigint, _before bigint, _patience bigint, _now bigint)
RETURNS TABLE (
    run_id text, thread_id text, epoch bigint, status text, child boolean, rollback_ref text, saved boolean,
    saved_values text, saved_interrupts text, way text
) LANGUAGE plpgsql STABLE
SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_known text[] := (SELECT assistants FROM rc.workers WHERE epoch = _by AND state = 'live');
    v_draining bigint[];
BEGIN
    RETURN QUERY
    SELECT r.run_id, r.thread_id, COALESCE(r.owner_epoch, r.home_epoch), r.status, r.parent_run_id IS NOT NULL,
        r.rollback_ref, r.saved, r.saved_values, r.saved_interrupts,
        CASE WHEN rc.may_continue(r) AND r.assistant_id = ANY (v_known) THEN 'adopt' ELSE 'end' END
    FROM rc.orphaned(_only, _before, _patience, _now) r
    WHERE NOT rc.waits_for_attempt(r, _patience, rc.clock(_now)) OR r.assistant_id = ANY (v_known);
    IF cardinality(v_known) > 0 THEN
        v_draining := ARRAY(SELECT w.epoch FROM rc.workers w WHERE w.state = 'draining');
        RETURN QUERY
        SELECT r.run_id, r.thread_id, r.owner_epoch, r.status, r.parent_run_id IS NOT NULL, r.rollback_ref, r.saved,
            r.saved_values, r.saved_interrupts, 'handed over'
        FROM rc.runs r
        WHERE holds_thread AND stopped_at IS NOT NULL AND owner_epoch = ANY (v_draining)
          AND rc.may_continue(r) AND assistant_id = ANY (v_known)
        ORDER BY created_us NULLS FIRST, r.run_id;
    END IF;
END $$;

-- Give a run to `_by` for its next attempt, with a new fence, if it still belongs to `_epoch`, whose worker is dead or has
-- handed it over. A death of the worker takes one of the run's retries, unless the run had not started. Null = another worker was faster, the run was
-- decided, or `_by` does not execute its assistant (any more). Fails soon where it would have to wait for a lock; the run
-- is returned again in the next sweep.
CREATE OR REPLACE FUNCTION rc.adopt_attempt(
    _run_id text, _thread_id text, _epoch bigint, _by bigint, _now bigint,
    OUT status text, OUT fence bigint, OUT attempt bigint
) LANGUAGE plpgsql SET lock_timeout = '500ms' AS $$
#variable_conflict use_column
DECLARE
    v_run rc.runs;
    v_now bigint;
BEGIN
    PERFORM FROM rc.threads WHERE thread_id = _thread_id FOR NO KEY UPDATE;
    SELECT * INTO v_run FROM rc.runs r WHERE run_id = _run_id FOR NO KEY UPDATE;
    IF NOT FOUND OR NOT rc.may_continue(v_run) OR v_run.owner_epoch IS DISTINCT FROM _epoch THEN
        RETURN;
    END IF;
    PERFORM rc.lock_worker(epoch) FROM unnest(ARRAY[LEAST(_by, _epoch), GREATEST(_by, _epoch)]) epoch;
    IF NOT EXISTS (SELECT FROM rc.workers WHERE epoch = _by AND state = 'live' AND v_run.assistant_id = ANY (assistants))
       OR EXISTS (SELECT FROM rc.workers WHERE epoch = _epoch
                  AND (state = 'live' OR state = 'draining' AND v_run.stopped_at IS NULL)) THEN
        RETURN;
    END IF;
    v_now := rc.clock(_now);
    UPDATE rc.threads t SET fence = t.fence + 1, updated_at = v_now WHERE thread_id = _thread_id
        RETURNING t.fence INTO fence;
    UPDATE rc.runs r SET owner_epoch = _by, fence = adopt_attempt.fence,
        attempt = r.attempt + (r.status = 'running')::int,
        retries = retries - (stopped_at IS NULL AND r.status = 'running')::int, stopped_at = v_now, updated_at = v_now
        WHERE run_id = _run_id RETURNING r.status, r.attempt INTO status, attempt;
END $$;
