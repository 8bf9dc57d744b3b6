-- Threads and runs as clients make, change and lose them.

-- False = the id is taken.
CREATE OR REPLACE FUNCTION rc.create_thread(
    _thread_id text, _user_id text, _metadata text, _ttl_ms bigint, _temporary boolean, _now bigint
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF NOT rc.make_thread(_thread_id) THEN
        RETURN false;
    END IF;
    UPDATE rc.threads SET user_id = _user_id, metadata = _metadata, ttl_ms = _ttl_ms, temporary = _temporary,
        created_at = rc.clock(_now), updated_at = rc.clock(_now) WHERE thread_id = _thread_id;
    RETURN true;
END $$;

-- Compare-and-set on the metadata that the caller has merged into. `said`: 'patched', 'changed', 'not found'.
CREATE OR REPLACE FUNCTION rc.patch_thread(
    _thread_id text, _user_id text, _was text, _metadata text, _sets_ttl boolean, _ttl_ms bigint, _now bigint
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_metadata text;
BEGIN
    SELECT metadata INTO v_metadata FROM rc.threads
        WHERE thread_id = _thread_id AND (_user_id IS NULL OR user_id = _user_id) FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN 'not found';
    ELSIF v_metadata <> _was THEN
        RETURN 'changed';
    END IF;
    UPDATE rc.threads SET metadata = _metadata, ttl_ms = CASE WHEN _sets_ttl THEN _ttl_ms ELSE ttl_ms END,
        temporary = temporary AND NOT _sets_ttl,
        updated_at = rc.clock(_now) WHERE thread_id = _thread_id;
    RETURN 'patched';
END $$;

-- Remove a run that has settled, with its audit. `said`: 'deleted' (`row`: as it stood), 'not found', 'in flight'.
CREATE OR REPLACE FUNCTION rc.delete_run(
    _run_id text, _thread_id text, _user_id text, OUT said text, OUT thread_id text, OUT was json
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_run rc.runs;
    v_open boolean;
    v_stopping boolean;
BEGIN
    SELECT * INTO v_run FROM rc.runs r WHERE run_id = _run_id AND kind = 'run'
        AND (_thread_id IS NULL OR r.thread_id = _thread_id) AND (_user_id IS NULL OR user_id = _user_id) FOR UPDATE;
    v_open := v_run.status IN ('pending', 'running');
    v_stopping := NOT v_open AND v_run.settled_at IS NULL
        AND (v_run.holds_thread OR v_run.owner_epoch IS NOT NULL);
    IF v_run.run_id IS NULL
       OR NOT v_open AND NOT v_stopping AND COALESCE(v_run.cancel_action, '') = 'rollback'
          AND COALESCE(v_run.rollback_state, '') <> 'failed' THEN
        said := 'not found';
    ELSIF v_open OR v_stopping THEN
        said := 'in flight';
        thread_id := v_run.thread_id;
    ELSE
        said := 'deleted';
        was := to_json(v_run);
        PERFORM rc.delete(_run_id);
    END IF;
END $$;

-- Threads whose time to live has passed since they were last used, and where every run has settled so long
-- ago; what is locked by somebody is being used. A run that goes on longer than its thread's time to live is
-- looked at each time: as many as run. `_unused`: us for which a temporary thread that no run has come to is kept.
CREATE OR REPLACE FUNCTION rc.expired(_limit bigint, _unused bigint, _now bigint) RETURNS SETOF rc.threads
LANGUAGE sql STABLE AS $$
    SELECT * FROM rc.threads t
    WHERE expires_at IS NOT NULL AND expires_at <= _now
      AND (NOT temporary OR next_seq > 0 OR updated_at + _unused <= _now)
      AND NOT EXISTS (SELECT FROM rc.runs r WHERE r.thread_id = t.thread_id
                      AND (r.settled_at IS NULL OR r.settled_at + t.ttl_ms * 1000 > _now))
    ORDER BY expires_at, thread_id LIMIT _limit
$$;

CREATE OR REPLACE FUNCTION rc.has_expired(_unused bigint, _now bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM rc.expired(1, _unused, (SELECT rc.clock(_now))))
        OR EXISTS (SELECT FROM rc.passing_fences WHERE forget_at <= (SELECT rc.clock(_now)))
$$;

-- Remove expired threads with their runs and the audit of those; one with very many runs goes in pieces, the
-- oldest first. It waits for no thread: what somebody has locked is being used.
CREATE OR REPLACE FUNCTION rc.expire_threads(
    _limit bigint, _unused bigint, _runs_at_once bigint, _fence_kept bigint, _now bigint
) RETURNS TABLE (thread_id text, run_ids text[]) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now bigint := rc.clock(_now);
    v_thread rc.threads;
    v_candidate record;
    v_room bigint := _runs_at_once;
BEGIN
    PERFORM rc.forget_fences(_limit * 10, v_now);
    FOR v_candidate IN SELECT e.thread_id FROM rc.expired(_limit, _unused, v_now) e LOOP
        SELECT * INTO v_thread FROM rc.threads t WHERE t.thread_id = v_candidate.thread_id
            AND expires_at <= v_now FOR UPDATE SKIP LOCKED;
        -- Under the lock once more: nobody admits there now, and whoever has, has moved expires_at.
        CONTINUE WHEN NOT FOUND;
        thread_id := v_thread.thread_id;
        run_ids := ARRAY(SELECT run_id FROM rc.runs r WHERE r.thread_id = v_thread.thread_id
                         ORDER BY created_us NULLS FIRST, run_id DESC LIMIT v_room);
        DELETE FROM rc.transitions t WHERE t.run_id = ANY (run_ids);
        DELETE FROM rc.runs r WHERE r.run_id = ANY (run_ids);
        RETURN NEXT;
        v_room := v_room - cardinality(run_ids);
        EXIT WHEN v_room <= 0;
        DELETE FROM rc.threads t WHERE t.thread_id = v_thread.thread_id;
        DELETE FROM rc.crons c WHERE c.thread_id = v_thread.thread_id;
        INSERT INTO rc.deleted_threads AS d (thread_id, fence) VALUES (v_thread.thread_id, v_thread.fence)
            ON CONFLICT (thread_id) DO UPDATE SET fence = excluded.fence;
        IF v_thread.temporary THEN
            INSERT INTO rc.passing_fences AS p (forget_at, thread_id, fence)
                VALUES (v_now + _fence_kept, v_thread.thread_id, v_thread.fence)
                ON CONFLICT (forget_at, thread_id) DO UPDATE SET fence = excluded.fence;
        END IF;
    END LOOP;
END $$;

-- Unless a thread of the same id was made and deleted since: it has left a newer one.
CREATE OR REPLACE FUNCTION rc.forget_fences(_limit bigint, _now bigint) RETURNS void LANGUAGE sql AS $$
    WITH due AS (
        DELETE FROM rc.passing_fences p USING (
            SELECT forget_at, thread_id FROM rc.passing_fences WHERE forget_at <= _now
            ORDER BY forget_at, thread_id LIMIT _limit FOR UPDATE SKIP LOCKED
        ) d WHERE p.forget_at = d.forget_at AND p.thread_id = d.thread_id RETURNING p.thread_id, p.fence
    )
    DELETE FROM rc.deleted_threads d USING due WHERE d.thread_id = due.thread_id AND d.fence = due.fence
$$;
