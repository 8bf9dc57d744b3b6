-- State of threads outside of this store: which storages have some, and what removed threads have left there.

-- As `start` of one call, and notes for its thread that it has state of this kind.
CREATE OR REPLACE FUNCTION rc.start_noted(_call json, _kind text)
RETURNS TABLE (reply text, home bigint, vals text, stands rc.standing) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_call rc.starting := json_populate_record(NULL::rc.starting, _call);
    v_answer record;
BEGIN
    SELECT * INTO v_answer FROM rc.start(ARRAY[v_call], true);
    IF v_answer.reply = 'started' THEN
        INSERT INTO rc.thread_states (thread_id, kind)
            SELECT thread_id, _kind FROM rc.runs WHERE run_id = v_call.run_id
            ON CONFLICT DO NOTHING;
    END IF;
    RETURN QUERY SELECT v_answer.reply, v_answer.home, v_answer.vals, v_answer.stands;
END $$;

-- False = stale.
CREATE OR REPLACE FUNCTION rc.note_states(_run_id text, _thread_id text, _epoch bigint, _fence bigint, _kinds text[])
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_state text;
BEGIN
    PERFORM FROM rc.threads WHERE thread_id = _thread_id FOR NO KEY UPDATE;
    v_state := rc.lock_worker(_epoch);
    IF v_state IS NULL OR v_state = 'dead' OR NOT EXISTS (
        SELECT FROM rc.runs WHERE run_id = _run_id AND owner_epoch = _epoch AND fence = _fence
            AND settled_at IS NULL AND holds_thread) THEN
        RETURN false;
    END IF;
    INSERT INTO rc.thread_states (thread_id, kind) SELECT _thread_id, kind FROM unnest(_kinds) kind
        ON CONFLICT DO NOTHING;
    RETURN true;
END $$;

-- Within the transaction that removes the thread, whose last fence is `_fence`.
CREATE OR REPLACE FUNCTION rc.leave_states(_thread_id text, _fence bigint, _now bigint) RETURNS void
LANGUAGE sql AS $$
    UPDATE rc.thread_states SET removed_fence = _fence, due_at = _now, attempts = 0 WHERE thread_id = _thread_id
$$;

-- What is due and of these kinds, those that are longest due first. Each is due again after `_retry_after` (us), doubled
-- with each claim, `_doublings` times at most.
CREATE OR REPLACE FUNCTION rc.claim_removed_states(
    _kinds text[], _limit bigint, _retry_after bigint, _doublings bigint, _now bigint
) RETURNS TABLE (thread_id text, kind text, fence bigint, attempts bigint) LANGUAGE sql AS $$
    -- A subquery in FROM may be read again for each row of a join, and then locks more than its limit.
    WITH due AS MATERIALIZED (
        SELECT thread_id, kind FROM rc.thread_states
        WHERE removed_fence IS NOT NULL AND due_at <= (SELECT rc.clock(_now)) AND kind = ANY (_kinds)
        ORDER BY due_at, thread_id, kind LIMIT _limit FOR UPDATE SKIP LOCKED
    )
    UPDATE rc.thread_states s SET attempts = s.attempts + 1,
        due_at = rc.clock(_now) + (_retry_after << LEAST(s.attempts, _doublings)::int)
    FROM due WHERE s.thread_id = due.thread_id AND s.kind = due.kind
    RETURNING s.thread_id, s.kind, s.removed_fence, s.attempts
$$;

CREATE OR REPLACE FUNCTION rc.forget_removed_states(_thread_ids text[], _kinds text[], _fences bigint[]) RETURNS void
LANGUAGE sql AS $$
    DELETE FROM rc.thread_states s USING (
        SELECT s.thread_id, s.kind FROM rc.thread_states s
        JOIN unnest(_thread_ids, _kinds, _fences) r (thread_id, kind, fence)
            ON s.thread_id = r.thread_id AND s.kind = r.kind AND s.removed_fence = r.fence
        ORDER BY s.thread_id, s.kind FOR UPDATE OF s
    ) done WHERE s.thread_id = done.thread_id AND s.kind = done.kind
$$;
