-- What an owner writes: start, save, finish, settle. Each carries the guard (run, epoch, fence; not settled;
-- the epoch is not dead), or writes nothing. settled_at IS NULL: the run holds its thread, or lives beside
-- the slot.

-- pending -> running. `said`: 'started'; 'stands' = it is mine and somebody decided, or it runs already
-- (`stands`, and `vals` where it runs); 'lost'.
CREATE OR REPLACE FUNCTION rc.start(
    _run_id text, _epoch bigint, _fence bigint, _ref text, _saved boolean, _saved_values text,
    _saved_interrupts text, _now bigint,
    OUT said text, OUT home bigint, OUT vals text, OUT stands rc.standing
) LANGUAGE plpgsql AS $$
DECLARE
    v_state text;
    v_now bigint;
BEGIN
    said := 'lost';
    PERFORM FROM rc.runs WHERE run_id = _run_id FOR NO KEY UPDATE;
    v_state := rc.lock_worker(_epoch);
    IF v_state IS NULL OR v_state = 'dead' THEN
        RETURN;
    END IF;
    v_now := rc.clock(_now);
    UPDATE rc.runs r SET status = 'running', started_at = v_now, rollback_ref = _ref, saved = _saved,
        saved_values = _saved_values, saved_interrupts = _saved_interrupts, updated_at = v_now,
        deadline_at = v_now + timeout_ms * 1000
        WHERE run_id = _run_id AND owner_epoch = _epoch AND fence = _fence AND settled_at IS NULL
          AND status = 'pending'
        RETURNING home_epoch, (SELECT t."values" FROM rc.threads t WHERE t.thread_id = r.thread_id)
        INTO home, vals;
    IF FOUND THEN
        said := 'started';
        RETURN;
    END IF;
    stands := rc.stands(_run_id);
    IF (stands).owner_epoch = _epoch AND (stands).fence = _fence AND (stands).status <> 'pending' THEN
        said := 'stands';
        IF (stands).status = 'running' THEN
            vals := (SELECT t."values" FROM rc.threads t WHERE t.thread_id = (stands).thread_id);
        END IF;
    END IF;
END $$;

-- Write the thread's values as the running holder; the first save of a run keeps the old ones. `_last`: also where
-- the run was told to stop, not to be taken back, and still holds its thread: once, which the audit shows; the same
-- values again are the same save. False = stale.
CREATE OR REPLACE FUNCTION rc.save(
    _run_id text, _thread_id text, _epoch bigint, _fence bigint, _values text, _last boolean, _now bigint
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_state text;
    v_saved boolean;
    v_status text;
BEGIN
    PERFORM FROM rc.threads WHERE thread_id = _thread_id FOR NO KEY UPDATE;
    SELECT saved, status INTO v_saved, v_status FROM rc.runs
        WHERE run_id = _run_id AND owner_epoch = _epoch AND fence = _fence AND settled_at IS NULL AND holds_thread
          AND (status = 'running'
               OR _last AND status IN ('interrupted', 'timeout') AND cancel_action = 'interrupt') FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    v_state := rc.lock_worker(_epoch);
    IF v_state IS NULL OR v_state = 'dead' THEN
        RETURN false;
    END IF;
    IF v_status <> 'running' AND EXISTS (SELECT FROM rc.transitions WHERE run_id = _run_id AND what = 'saved') THEN
        IF (SELECT "values" IS DISTINCT FROM _values FROM rc.threads WHERE thread_id = _thread_id) THEN
            RETURN false;
        END IF;
    ELSIF v_status <> 'running' THEN
        INSERT INTO rc.transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread, cause, actor,
                                    epoch, fence)
        SELECT run_id, thread_id, rc.clock(_now), 'saved', status, status, holds_thread, cancel_cause, cancel_actor,
            owner_epoch, fence FROM rc.runs WHERE run_id = _run_id;
    END IF;
    IF NOT v_saved THEN
        UPDATE rc.runs r SET saved = true, checkpointed = true, saved_values = t."values", saved_interrupts = t.interrupts
            FROM rc.threads t WHERE r.run_id = _run_id AND t.thread_id = _thread_id;
    END IF;
    UPDATE rc.threads SET "values" = _values, interrupts = NULL, state_updated_at = rc.clock(_now),
        updated_at = rc.clock(_now) WHERE thread_id = _thread_id;
    RETURN true;
END $$;

-- Undo what the run saved; `vals` are the thread's then. Idempotent, also where it saved nothing.
CREATE OR REPLACE FUNCTION rc.restore(
    _run_id text, _thread_id text, _epoch bigint, _fence bigint, _now bigint, OUT ok boolean, OUT vals text
) LANGUAGE plpgsql AS $$
DECLARE
    v_state text;
    v_run rc.runs;
BEGIN
    ok := false;
    PERFORM FROM rc.threads WHERE thread_id = _thread_id FOR NO KEY UPDATE;
    v_state := rc.lock_worker(_epoch);
    IF v_state IS NULL OR v_state = 'dead' THEN
        RETURN;
    END IF;
    SELECT * INTO v_run FROM rc.runs
        WHERE run_id = _run_id AND owner_epoch = _epoch AND fence = _fence AND settled_at IS NULL AND holds_thread;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    ok := true;
    IF v_run.saved THEN
        UPDATE rc.threads SET "values" = v_run.saved_values, interrupts = v_run.saved_interrupts,
            state_updated_at = rc.clock(_now), updated_at = rc.clock(_now) WHERE thread_id = _thread_id;
    END IF;
    vals := (SELECT t."values" FROM rc.threads t WHERE thread_id = _thread_id);
END $$;

-- Decide (unless somebody did) and settle; `_hold` only decides. `said`: 'written', with how it stands;
-- 'stands' = mine, and not written: a rollback was decided first and waits for `settle`, or it was settled
-- before; 'lost'. `next_home`: see `next_worker`.
CREATE OR REPLACE FUNCTION rc.finish(
    _run_id text, _thread_id text, _epoch bigint, _fence bigint, _hold boolean, _status text, _error text,
    _result text, _values text, _paused boolean, _interrupts text, _delivered_at bigint, _stopped_at bigint,
    _now bigint,
    OUT said text, OUT stands rc.standing, OUT next_home bigint, OUT children json
) LANGUAGE plpgsql AS $$
DECLARE
    v_state text;
    v_interrupted boolean;
    v_held text;
    v_leaves boolean := _status = 'success' AND _fence > 0
        AND (_values IS NOT NULL OR _paused OR _interrupts IS NOT NULL);  -- where nothing was decided over it
    v_now bigint;
BEGIN
    SELECT interrupts IS NOT NULL, COALESCE("values", 'null') INTO v_interrupted, v_held
        FROM rc.threads WHERE thread_id = _thread_id FOR NO KEY UPDATE;
    IF _status <> 'success' THEN
        PERFORM rc.lock_family(ARRAY[_run_id], NULL);
    ELSE
        PERFORM FROM rc.runs WHERE run_id = _run_id FOR NO KEY UPDATE;
    END IF;
    v_state := rc.lock_worker(_epoch);
    v_now := rc.clock(_now);
    IF v_state IN ('live', 'draining') THEN
        UPDATE rc.runs SET holds_thread = holds_thread AND _hold,
            settled_at = CASE WHEN NOT _hold THEN v_now END,
            ended_at = COALESCE(ended_at, v_now), updated_at = v_now,
            cancel_delivered_at = COALESCE(_delivered_at, cancel_delivered_at),
            stopped_at = COALESCE(_stopped_at, stopped_at),
            checkpointed = checkpointed OR v_leaves AND (status IN ('pending', 'running') OR _values IS NOT NULL
                AND NOT _hold AND status IN ('interrupted', 'timeout') AND cancel_action = 'interrupt'),
            checkpoint_values = CASE
                WHEN v_leaves AND _values IS NOT NULL AND status IN ('pending', 'running')
                    THEN CASE WHEN _result IS DISTINCT FROM _values THEN _values END
                WHEN v_leaves AND _values IS NOT NULL AND NOT _hold AND status IN ('interrupted', 'timeout')
                     AND cancel_action = 'interrupt' THEN _values
                WHEN checkpointed OR v_leaves AND status IN ('pending', 'running') THEN v_held END,
            paused = CASE WHEN status IN ('pending', 'running') THEN _paused ELSE paused END,
            interrupts = CASE WHEN status IN ('pending', 'running') THEN _interrupts ELSE interrupts END,
            result = CASE WHEN status IN ('pending', 'running') THEN _result ELSE result END,
            error = CASE WHEN status IN ('pending', 'running') THEN _error ELSE error END,
            status = CASE WHEN status IN ('pending', 'running') THEN _status ELSE status END
            WHERE run_id = _run_id AND owner_epoch = _epoch AND fence = _fence AND settled_at IS NULL
              AND (status IN ('pending', 'running') OR cancel_action IS DISTINCT FROM 'rollback'
                   OR started_at IS NULL OR NOT holds_thread)
            RETURNING run_id, thread_id, status, settled_at, owner_epoch, home_epoch, fence,
                cancel_action, cancel_cause, cancel_reason, cancel_actor, error INTO stands;
    END IF;
    IF (stands).run_id IS NULL THEN
        stands := rc.stands(_run_id);
        said := rc.why_not(stands, _epoch, _fence, v_state);
    ELSE
        said := 'written';
        children := rc.end_children(_run_id, (stands).status, v_now);
        IF (stands).status = 'success' AND (stands).cancel_action IS NULL AND _status = 'success' AND _fence > 0 THEN
            IF _values IS NOT NULL THEN
                UPDATE rc.threads SET "values" = _values, interrupts = _interrupts, state_updated_at = v_now,
                    updated_at = v_now WHERE thread_id = _thread_id;
            ELSIF v_interrupted OR _interrupts IS NOT NULL THEN
                UPDATE rc.threads SET interrupts = _interrupts, updated_at = v_now WHERE thread_id = _thread_id;
            END IF;
        ELSIF (stands).status IN ('interrupted', 'timeout') AND (stands).cancel_action = 'interrupt'
              AND _status = 'success' AND _values IS NOT NULL AND _fence > 0 AND NOT _hold THEN
            -- It was told to stop and came to its end all the same: what it has returned is its last save.
            UPDATE rc.threads SET "values" = _values, interrupts = NULL, state_updated_at = v_now, updated_at = v_now
                WHERE thread_id = _thread_id;
        END IF;
    END IF;
    IF said = 'written' OR (stands).settled_at IS NOT NULL THEN
        next_home := rc.next_worker(_thread_id);
    END IF;
END $$;

-- Free the thread of a run that was decided. `_values`: what `restore` answered.
CREATE OR REPLACE FUNCTION rc.settle(
    _run_id text, _thread_id text, _epoch bigint, _fence bigint, _error text, _values text,
    _rollback_state text, _delivered_at bigint, _stopped_at bigint, _now bigint,
    OUT said text, OUT stands rc.standing, OUT next_home bigint
) LANGUAGE plpgsql AS $$
DECLARE
    v_state text;
    v_now bigint;
BEGIN
    PERFORM FROM rc.threads WHERE thread_id = _thread_id FOR NO KEY UPDATE;
    PERFORM FROM rc.runs WHERE run_id = _run_id FOR NO KEY UPDATE;
    v_state := rc.lock_worker(_epoch);
    v_now := rc.clock(_now);
    IF v_state IN ('live', 'draining') THEN
        UPDATE rc.runs SET holds_thread = false, settled_at = v_now, updated_at = v_now,
            stopped_at = COALESCE(_stopped_at, stopped_at),
            cancel_delivered_at = COALESCE(_delivered_at, cancel_delivered_at),
            rollback_state = COALESCE(_rollback_state, rollback_state), error = COALESCE(_error, error)
            WHERE run_id = _run_id AND owner_epoch = _epoch AND fence = _fence AND settled_at IS NULL
              AND status NOT IN ('pending', 'running')
            RETURNING run_id, thread_id, status, settled_at, owner_epoch, home_epoch, fence,
                cancel_action, cancel_cause, cancel_reason, cancel_actor, error INTO stands;
    END IF;
    IF (stands).run_id IS NULL THEN
        stands := rc.stands(_run_id);
        said := rc.why_not(stands, _epoch, _fence, v_state);
    ELSE
        said := 'written';
        IF _values IS NOT NULL THEN
            UPDATE rc.threads SET "values" = _values, state_updated_at = v_now, updated_at = v_now WHERE thread_id = _thread_id;
        END IF;
    END IF;
    IF said = 'written' OR (stands).settled_at IS NOT NULL THEN
        next_home := rc.next_worker(_thread_id);
    END IF;
END $$;

-- A guard has matched no row.
CREATE OR REPLACE FUNCTION rc.why_not(_stands rc.standing, _epoch bigint, _fence bigint, _state text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN (_stands).owner_epoch = _epoch AND (_stands).fence = _fence
                 AND _state IN ('live', 'draining') THEN 'stands' ELSE 'lost' END
$$;

-- The home of the head of the waiting line; 0 = the head is portable and has no live home, so that any worker
-- that knows its assistant may claim; null = no run waits.
CREATE OR REPLACE FUNCTION rc.next_worker(_thread_id text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN portable AND NOT EXISTS (SELECT FROM rc.workers WHERE epoch = home_epoch AND state <> 'dead')
                THEN 0 ELSE home_epoch END FROM rc.runs
    WHERE thread_id = _thread_id AND (holds_thread OR status IN ('pending', 'running'))
      AND status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL AND (home_epoch IS NOT NULL OR portable)
      AND not_before IS NULL
    ORDER BY seq LIMIT 1
$$;

-- Take a newer fence on a thread that the run still holds. Asked again with the old one, it answers the
-- newer one. Null = lost.
CREATE OR REPLACE FUNCTION rc.refence(_run_id text, _thread_id text, _epoch bigint, _fence bigint, _now bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_state text;
    v_now bigint;
    v_fence bigint;
BEGIN
    PERFORM FROM rc.threads WHERE thread_id = _thread_id FOR NO KEY UPDATE;
    PERFORM FROM rc.runs WHERE run_id = _run_id FOR NO KEY UPDATE;
    v_state := rc.lock_worker(_epoch);
    IF v_state IS NULL OR v_state = 'dead' THEN
        RETURN NULL;
    END IF;
    v_now := rc.clock(_now);
    UPDATE rc.runs SET fence = fence + 1, updated_at = v_now
        WHERE run_id = _run_id AND owner_epoch = _epoch AND fence = _fence AND settled_at IS NULL AND holds_thread
        RETURNING fence INTO v_fence;
    IF FOUND THEN
        UPDATE rc.threads SET fence = v_fence, updated_at = v_now WHERE thread_id = _thread_id;
        RETURN v_fence;
    END IF;
    RETURN (SELECT fence FROM rc.runs WHERE run_id = _run_id AND owner_epoch = _epoch AND fence > _fence
            AND _fence > 0 AND holds_thread);
END $$;
