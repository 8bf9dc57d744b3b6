-- Threads and runs as clients create, change and delete them.

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

-- Compare-and-set on the metadata that the caller has merged into. Returns 'patched', 'changed', 'not found'.
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

-- Remove a run that has settled, with its audit. `reply`: 'deleted' (`was`: as it stood), 'not found', 'in flight'.
CREATE OR REPLACE FUNCTION rc.delete_run(
    _run_id text, _thread_id text, _user_id text, OUT reply text, OUT thread_id text, OUT was json
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
        reply := 'not found';
    ELSIF v_open OR v_stopping THEN
        reply := 'in flight';
        thread_id := v_run.thread_id;
    ELSE
        reply := 'deleted';
        was := to_json(v_run);
        PERFORM rc.delete(_run_id);
    END IF;
END $$;

-- Threads whose time to live has passed since they were last used, and where every run has settled so long
-- ago; a locked thread is in use. Runs that outlive their thread's time to live are re-examined on every pass; the cost
-- is bounded by the number of running runs. `_unused`: us for which a temporary thread without any run is kept.
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

-- Remove expired threads with their runs and the audit of those; one with very many runs is removed in pieces, the
-- oldest first. It waits for no thread: a locked one is in use.
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
        -- Under the lock once more: no run is admitted meanwhile, and an admission before it has moved expires_at.
        CONTINUE WHEN NOT FOUND;
        thread_id := v_thread.thread_id;
        run_ids := ARRAY(SELECT run_id FROM rc.runs r WHERE r.thread_id = v_thread.thread_id
                         ORDER BY created_us NULLS FIRST, run_id DESC LIMIT v_room);
        DELETE FROM rc.transitions t WHERE t.run_id = ANY (run_ids);
        DELETE FROM rc.runs r WHERE r.run_id = ANY (run_ids);
        RETURN NEXT;
        v_room := v_room - cardinality(run_ids);
        EXIT WHEN v_room <= 0;
        PERFORM rc.leave_states(v_thread.thread_id, v_thread.fence, v_now);
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

-- Removes fences, unless a thread of the same id was created and deleted since: that has left a newer one.
CREATE OR REPLACE FUNCTION rc.forget_fences(_limit bigint, _now bigint) RETURNS void LANGUAGE sql AS $$
    WITH due AS (
        DELETE FROM rc.passing_fences p USING (
            SELECT forget_at, thread_id FROM rc.passing_fences WHERE forget_at <= _now
            ORDER BY forget_at, thread_id LIMIT _limit FOR UPDATE SKIP LOCKED
        ) d WHERE p.forget_at = d.forget_at AND p.thread_id = d.thread_id RETURNING p.thread_id, p.fence
    )
    DELETE FROM rc.deleted_threads d USING due WHERE d.thread_id = due.thread_id AND d.fence = due.fence
$$;

-- A thread's metadata with the keys of `_stamp`, both JSON objects. Metadata that cannot be read stays as it is.
CREATE OR REPLACE FUNCTION rc.stamped(_metadata text, _stamp text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    c_mark CONSTANT text := chr(1114111);
    -- Half of a surrogate pair and U+0000 are JSON, and text that json_each cannot make: it reads them behind a mark.
    c_unmade CONSTANT text := '(?<!\\)((?:\\\\)*)\\u(0000|d[89a-f][0-9a-f]{2})';
    v_marked boolean;
    v_merged text;
BEGIN
    IF _stamp IS NULL OR right(_metadata, length(_stamp) - 1) = substr(_stamp, 2) THEN
        RETURN _metadata;  -- as it was stamped before: no need to read it
    ELSIF _metadata = '{}' THEN
        RETURN _stamp;
    ELSIF rc.as_jsonb(_metadata) @> rc.as_jsonb(_stamp) THEN
        RETURN _metadata;
    END IF;
    v_marked := _metadata || _stamp ~* c_unmade;
    IF v_marked AND strpos(_metadata || _stamp, c_mark) > 0 THEN
        RETURN _metadata;
    END IF;
    SELECT '{' || string_agg(to_json(key)::text || ':' || value, ',' ORDER BY place) || '}' INTO v_merged FROM (
        SELECT key, COALESCE(new.value, held.value)::text AS value, COALESCE(held.place, new.place) AS place
        FROM (
            SELECT DISTINCT ON (key) key, value, place  -- of two equal keys the last one counts
            FROM json_each(CASE WHEN v_marked THEN regexp_replace(_metadata, c_unmade, '\1' || c_mark || '\2', 'gi')
                                ELSE _metadata END::json) WITH ORDINALITY each (key, value, place)
            ORDER BY key, place DESC
        ) held
        FULL JOIN (
            SELECT key, value, 1000000 + place AS place
            FROM json_each(CASE WHEN v_marked THEN regexp_replace(_stamp, c_unmade, '\1' || c_mark || '\2', 'gi')
                                ELSE _stamp END::json) WITH ORDINALITY each (key, value, place)
        ) new USING (key)
    ) merged;
    RETURN CASE WHEN v_marked THEN regexp_replace(v_merged, c_mark || '([0-9a-f]{4})', '\\u\1', 'gi') ELSE v_merged END;
EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
    RETURN _metadata;
END $$;

-- Make the row of a missing thread, with the fence that it had; it is locked then. False = another
-- transaction has made it. The lock keeps two from meeting in the index, where a batch, which must not wait, would
-- wait for the other's commit.
CREATE OR REPLACE FUNCTION rc.make_thread(_thread_id text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock('rc.threads'::regclass::oid::int4, hashtext(_thread_id));
    INSERT INTO rc.threads (thread_id, fence, next_seq, created_at, updated_at)
        VALUES (_thread_id, COALESCE((SELECT fence FROM rc.deleted_threads WHERE thread_id = _thread_id), 0), 0, 0, 0)
        ON CONFLICT (thread_id) DO NOTHING;
    RETURN FOUND;
END $$;
