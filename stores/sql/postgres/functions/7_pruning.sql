-- prune: remove what is old enough, a bounded piece at a time. What another transaction has locked stays until the
-- next pass. A step reads `_limit` rows; `more`: there may be others behind the last one. By indexes alone, in
-- their own order: what a step costs does not depend on how many rows there are.

-- The run or the update of state that determines the thread's status. Left out: what was rolled back, and what never
-- began.
CREATE OR REPLACE FUNCTION rc.last_run(_thread_id text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT run_id FROM rc.runs
    WHERE thread_id = _thread_id
      AND (kind = 'run' OR (checkpointed AND status = 'success'))
      AND (cancel_action IS DISTINCT FROM 'rollback' OR rollback_state = 'failed')
      AND NOT (status = 'interrupted' AND started_at IS NULL)
    ORDER BY created_us DESC NULLS LAST, seq DESC LIMIT 1
$$;

-- Runs that have settled, in the order of their creation; never the one from which its thread's status
-- derives. Ages in microseconds. `_us` null: those without an instant.
CREATE OR REPLACE FUNCTION rc.prune_runs(
    _us bigint, _run_id text, _age bigint, _age_with_key bigint, _limit bigint, _dry boolean, _now bigint,
    OUT runs bigint, OUT transitions bigint, OUT last_us bigint, OUT last_run_id text, OUT more boolean
) LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_now bigint := rc.clock(_now);
    v_page text[];
    v_gone text[];
BEGIN
    IF _us IS NULL THEN
        v_page := ARRAY(SELECT run_id FROM rc.runs WHERE created_us IS NULL AND run_id > _run_id
                        ORDER BY run_id LIMIT _limit);
    ELSE
        v_page := ARRAY(SELECT run_id FROM rc.runs
                        WHERE created_us >= _us AND created_us <= v_now - _age
                          AND (created_us > _us OR run_id < _run_id)
                        ORDER BY created_us NULLS FIRST, run_id DESC LIMIT _limit);
    END IF;
    runs := 0;
    transitions := 0;
    more := cardinality(v_page) = _limit;
    last_run_id := v_page[cardinality(v_page)];
    last_us := (SELECT created_us FROM rc.runs WHERE run_id = last_run_id);
    v_gone := ARRAY(
        SELECT run_id FROM rc.runs r
        WHERE run_id = ANY (v_page)
          AND settled_at <= v_now - CASE WHEN idempotency_key IS NULL THEN _age ELSE _age_with_key END
          AND run_id IS DISTINCT FROM rc.last_run(thread_id)
        ORDER BY run_id);
    IF cardinality(v_gone) = 0 THEN
        RETURN;
    ELSIF _dry THEN
        runs := cardinality(v_gone);
        transitions := (SELECT count(*) FROM rc.transitions WHERE run_id = ANY (v_gone));
        RETURN;
    END IF;
    v_gone := ARRAY(SELECT run_id FROM rc.runs WHERE run_id = ANY (v_gone) ORDER BY run_id FOR UPDATE SKIP LOCKED);
    DELETE FROM rc.runs WHERE run_id = ANY (v_gone);
    GET DIAGNOSTICS runs = ROW_COUNT;
    DELETE FROM rc.transitions WHERE run_id = ANY (v_gone);
    GET DIAGNOSTICS transitions = ROW_COUNT;
END $$;

-- The audit of runs that have settled. Ids grow with time: the first row that is too young ends the pass.
CREATE OR REPLACE FUNCTION rc.prune_transitions(
    _id bigint, _age bigint, _limit bigint, _dry boolean, _now bigint,
    OUT transitions bigint, OUT last_id bigint, OUT more boolean
) LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_before bigint := rc.clock(_now) - _age;
    v_page bigint[];
    v_gone bigint[];
    v_last bigint;
BEGIN
    v_page := ARRAY(SELECT id FROM rc.transitions WHERE id > _id ORDER BY id LIMIT _limit);
    last_id := v_page[cardinality(v_page)];
    v_last := (SELECT at FROM rc.transitions WHERE id = last_id);
    more := cardinality(v_page) = _limit AND v_last <= v_before;
    v_gone := ARRAY(SELECT id FROM rc.transitions t
                    WHERE id = ANY (v_page) AND at <= v_before
                      AND NOT EXISTS (SELECT FROM rc.runs r WHERE r.run_id = t.run_id AND settled_at IS NULL));
    transitions := cardinality(v_gone);
    IF NOT _dry THEN
        DELETE FROM rc.transitions WHERE id = ANY (v_gone);
    END IF;
END $$;

-- Dead workers without runs in flight. The other functions treat a dead worker and a missing one alike.
CREATE OR REPLACE FUNCTION rc.prune_workers(_age bigint, _limit bigint, _dry boolean, _now bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_gone bigint[];
BEGIN
    v_gone := ARRAY(
        SELECT epoch FROM rc.workers w
        WHERE state = 'dead' AND fenced_at <= rc.clock(_now) - _age
          AND NOT EXISTS (SELECT FROM rc.runs WHERE owner_epoch = w.epoch AND holds_thread)
          AND NOT EXISTS (SELECT FROM rc.runs WHERE home_epoch = w.epoch AND status = 'pending' AND NOT holds_thread)
        ORDER BY epoch LIMIT CASE WHEN _dry THEN NULL ELSE _limit END);
    IF NOT _dry THEN
        DELETE FROM rc.workers WHERE epoch = ANY (v_gone);
    END IF;
    RETURN cardinality(v_gone);
END $$;
