-- The record operations of the gateways' own stores, on the same table.

-- In flight when its owner was declared dead. Whatever still arrives for it was written by a zombie.
CREATE OR REPLACE FUNCTION rc.taken_away(_run_id text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM rc.runs JOIN rc.workers ON epoch = owner_epoch
        WHERE run_id = _run_id AND state = 'dead' AND fenced_by <> epoch
          AND (settled_at IS NULL OR settled_at >= fenced_at)
    )
$$;

-- ISO 8601 with microseconds and an offset.
CREATE OR REPLACE FUNCTION rc.iso(_us bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT to_char(timestamp 'epoch' + _us * interval '1 microsecond', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')
$$;

-- Upsert of a record (import, repair). A stored terminal status stays, and a run that has an owner
-- is settled by it. The thread is left to the first user who is admitted.
-- `_counters` in the order of the columns below, null = leave it.
CREATE OR REPLACE FUNCTION rc.put(
    _run_id text, _thread_id text, _user_id text, _assistant_id text, _status text, _multitask_strategy text,
    _on_disconnect text, _metadata text, _kwargs text, _error text, _model_name text, _created_at text,
    _created_us bigint, _counters bigint[], _last_ai text, _first_human text, _now bigint
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_seq bigint;
    v_now bigint;
    v_settled bigint;
    v_fresh boolean := false;
BEGIN
    LOOP
        UPDATE rc.threads SET next_seq = next_seq + 1,
            created_at = CASE WHEN v_fresh THEN rc.clock(_now) ELSE created_at END,
            updated_at = CASE WHEN v_fresh THEN rc.clock(_now) ELSE updated_at END
            WHERE thread_id = _thread_id RETURNING next_seq INTO v_seq;
        EXIT WHEN FOUND;
        v_fresh := rc.make_thread(_thread_id);
    END LOOP;
    v_now := rc.clock(_now);
    v_settled := CASE WHEN _status NOT IN ('pending', 'running') THEN v_now END;
    INSERT INTO rc.runs AS r (run_id, thread_id, user_id, assistant_id, status, multitask_strategy, on_disconnect,
        metadata, kwargs, error, model_name, created_at, created_us, settled_at, ended_at, updated_at, seq)
    VALUES (_run_id, _thread_id, _user_id, _assistant_id, _status, _multitask_strategy, _on_disconnect, _metadata, _kwargs,
        _error, _model_name, COALESCE(_created_at, rc.iso(v_now)),
        CASE WHEN _created_at IS NULL THEN v_now ELSE _created_us END, v_settled, v_settled, v_now, v_seq)
    ON CONFLICT (run_id) DO UPDATE SET assistant_id = excluded.assistant_id, metadata = excluded.metadata,
        user_id = COALESCE(excluded.user_id, r.user_id), multitask_strategy = excluded.multitask_strategy,
        on_disconnect = excluded.on_disconnect, kwargs = excluded.kwargs, model_name = excluded.model_name,
        created_at = excluded.created_at, created_us = excluded.created_us, updated_at = excluded.updated_at,
        error = CASE WHEN r.status IN ('pending', 'running') OR r.status = excluded.status
                     THEN excluded.error ELSE r.error END,
        settled_at = CASE WHEN r.status IN ('pending', 'running') AND r.owner_epoch IS NULL
                          THEN excluded.settled_at ELSE r.settled_at END,
        ended_at = CASE WHEN r.status IN ('pending', 'running') THEN excluded.ended_at ELSE r.ended_at END,
        status = CASE WHEN r.status = 'pending'
                           OR (r.status = 'running' AND excluded.status NOT IN ('pending', 'running'))
                      THEN excluded.status ELSE r.status END;
    PERFORM rc.set_fields(_run_id, _counters, _last_ai, _first_human, v_now);
END $$;

CREATE OR REPLACE FUNCTION rc.set_fields(_run_id text, _counters bigint[], _last_ai text, _first_human text, _now bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF num_nonnulls(VARIADIC _counters) = 0 AND _last_ai IS NULL AND _first_human IS NULL THEN
        RETURN;
    END IF;
    UPDATE rc.runs SET
        total_input_tokens = COALESCE(_counters[1], total_input_tokens),
        total_output_tokens = COALESCE(_counters[2], total_output_tokens),
        total_tokens = COALESCE(_counters[3], total_tokens),
        llm_call_count = COALESCE(_counters[4], llm_call_count),
        lead_agent_tokens = COALESCE(_counters[5], lead_agent_tokens),
        subagent_tokens = COALESCE(_counters[6], subagent_tokens),
        middleware_tokens = COALESCE(_counters[7], middleware_tokens),
        message_count = COALESCE(_counters[8], message_count),
        last_ai_message = COALESCE(_last_ai, last_ai_message),
        first_human_message = COALESCE(_first_human, first_human_message),
        updated_at = _now
        WHERE run_id = _run_id;
END $$;

-- False where no row took the status: the row does not exist, another decision stands, or the status is `running` and
-- the run waits for its turn. Repeating a terminal status changes nothing.
CREATE OR REPLACE FUNCTION rc.update_status(_run_id text, _status text, _error text, _now bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_now bigint;
    v_ended boolean := _status NOT IN ('pending', 'running');
BEGIN
    PERFORM rc.lock_family(ARRAY[_run_id], NULL);
    IF rc.taken_away(_run_id) THEN
        RETURN false;
    END IF;
    v_now := rc.clock(_now);
    UPDATE rc.runs SET
        error = CASE WHEN status IN ('pending', 'running') THEN COALESCE(_error, error) ELSE error END,
        updated_at = v_now, status = _status,
        started_at = CASE WHEN _status = 'running' THEN COALESCE(started_at, v_now) ELSE started_at END,
        ended_at = CASE WHEN v_ended THEN COALESCE(ended_at, v_now) ELSE ended_at END,
        settled_at = CASE WHEN v_ended AND owner_epoch IS NULL THEN COALESCE(settled_at, v_now) ELSE settled_at END
        WHERE run_id = _run_id
          AND (status = _status OR status = 'pending' OR (status = 'running' AND _status <> 'pending'))
          AND NOT (_status = 'running' AND status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL
                   AND (home_epoch IS NOT NULL OR portable));
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF v_ended THEN
        PERFORM rc.end_children(_run_id, _status, v_now);
    END IF;
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION rc.update_model_name(_run_id text, _model_name text, _now bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE rc.runs SET model_name = _model_name, updated_at = rc.clock(_now)
        WHERE run_id = _run_id AND NOT rc.taken_away(_run_id);
    RETURN FOUND;
END $$;

-- Final counters, and the status unless another terminal one stands or the run was taken away from its
-- owner: then false, and nothing changes.
CREATE OR REPLACE FUNCTION rc.update_completion(
    _run_id text, _status text, _error text, _counters bigint[], _last_ai text, _first_human text, _now bigint
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_status text;
BEGIN
    PERFORM rc.lock_family(ARRAY[_run_id], NULL);
    SELECT status INTO v_status FROM rc.runs WHERE run_id = _run_id;
    IF NOT FOUND OR rc.taken_away(_run_id) THEN
        RETURN false;
    END IF;
    IF _status = 'running' THEN
        IF v_status NOT IN ('pending', 'running') THEN
            RETURN false;
        END IF;
    ELSIF _status IS NOT NULL AND NOT rc.update_status(_run_id, _status, _error, _now) THEN
        RETURN false;
    END IF;
    PERFORM rc.set_fields(_run_id, _counters, _last_ai, _first_human, rc.clock(_now));
    RETURN true;
END $$;

-- Compare-and-set on the fields that the caller has merged into. Returns 'updated', 'changed', 'not found'.
CREATE OR REPLACE FUNCTION rc.update_extra(_run_id text, _user_id text, _was text, _extra text, _now bigint) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_extra text;
BEGIN
    SELECT extra INTO v_extra FROM rc.runs
        WHERE run_id = _run_id AND kind = 'run' AND (_user_id IS NULL OR user_id = _user_id) FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN 'not found';
    ELSIF v_extra <> _was THEN
        RETURN 'changed';
    END IF;
    UPDATE rc.runs SET extra = _extra, updated_at = rc.clock(_now) WHERE run_id = _run_id;
    RETURN 'updated';
END $$;

-- A snapshot while running; null fields stay. False = not running.
CREATE OR REPLACE FUNCTION rc.update_progress(
    _run_id text, _counters bigint[], _last_ai text, _first_human text, _now bigint
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM rc.runs WHERE run_id = _run_id AND status = 'running' FOR UPDATE;
    IF NOT FOUND OR rc.taken_away(_run_id) THEN
        RETURN false;
    END IF;
    PERFORM rc.set_fields(_run_id, _counters, _last_ai, _first_human, rc.clock(_now));
    RETURN true;
END $$;

-- Remove the record and its audit. Deleting an unknown id is silent.
CREATE OR REPLACE FUNCTION rc.delete(_run_id text) RETURNS void LANGUAGE sql AS $$
    DELETE FROM rc.runs WHERE run_id = _run_id;
    DELETE FROM rc.transitions WHERE run_id = _run_id;
    DELETE FROM rc.webhooks WHERE run_id = _run_id AND state = 'waiting';
$$;

-- Remove a thread with all its runs, as the operation that holds it; the operation itself stays, settled, and
-- frees nothing that still exists. Runs in flight were admitted after the operation: they stay, with a
-- thread that holds nothing. Its state outside of this store is left to be removed. Called again, it does nothing. False =
-- stale.
CREATE OR REPLACE FUNCTION rc.delete_thread(_run_id text, _thread_id text, _epoch bigint, _fence bigint, _now bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_state text;
    v_run rc.runs;
    v_now bigint;
    v_gone text[];
BEGIN
    PERFORM FROM rc.threads WHERE thread_id = _thread_id FOR NO KEY UPDATE;
    v_gone := ARRAY(
        SELECT run_id FROM rc.runs
        WHERE thread_id = _thread_id AND (run_id = _run_id OR NOT (holds_thread OR status IN ('pending', 'running')))
        ORDER BY run_id FOR UPDATE);
    v_state := rc.lock_worker(_epoch);
    SELECT * INTO v_run FROM rc.runs WHERE run_id = _run_id AND owner_epoch = _epoch AND fence = _fence
        AND v_state IN ('live', 'draining');
    IF v_run.status = 'success' AND NOT v_run.holds_thread THEN
        RETURN true;
    END IF;
    IF v_run.run_id IS NULL OR NOT v_run.holds_thread OR v_run.status NOT IN ('pending', 'running') THEN
        RETURN false;
    END IF;
    v_now := rc.clock(_now);
    v_gone := array_remove(v_gone, _run_id);
    DELETE FROM rc.runs WHERE run_id = ANY (v_gone);
    DELETE FROM rc.transitions WHERE run_id = ANY (v_gone);
    UPDATE rc.runs SET status = 'success', checkpointed = false, holds_thread = false, settled_at = v_now, ended_at = v_now,
        updated_at = v_now WHERE run_id = _run_id;
    PERFORM rc.leave_states(_thread_id, _fence, v_now);
    IF EXISTS (SELECT FROM rc.runs WHERE thread_id = _thread_id
               AND (holds_thread OR status IN ('pending', 'running'))) THEN
        UPDATE rc.threads SET metadata = '{}', "values" = NULL, interrupts = NULL, created_at = v_now,
            state_updated_at = NULL, ttl_ms = CASE WHEN temporary THEN ttl_ms END, updated_at = v_now WHERE thread_id = _thread_id;
        RETURN true;
    END IF;
    INSERT INTO rc.deleted_threads (thread_id, fence)
        SELECT thread_id, fence FROM rc.threads WHERE thread_id = _thread_id
        ON CONFLICT (thread_id) DO UPDATE SET fence = excluded.fence;
    DELETE FROM rc.threads WHERE thread_id = _thread_id;
    DELETE FROM rc.crons WHERE thread_id = _thread_id;
    RETURN true;
END $$;
