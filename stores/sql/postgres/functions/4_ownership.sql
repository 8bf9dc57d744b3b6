-- What an owner writes: start, save, finish, settle. Each carries the guard (run, epoch, fence; not settled;
-- the epoch is not dead), or writes nothing. settled_at IS NULL: the run holds its thread, or lives beside
-- the slot.

-- pending -> running. `reply`: 'started'; 'stands' = the caller owns the run, which is decided or runs already
-- (`stands`, and `vals` where it runs); 'lost'. A batch answers only the runs that it has started.
CREATE OR REPLACE FUNCTION rc.start(_calls rc.starting[], _waits boolean)
RETURNS TABLE (place bigint, reply text, home bigint, vals text, stands rc.standing)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_locked text[] := rc.lock_runs(ARRAY(SELECT run_id FROM unnest(_calls)), _waits);
    v_alive bigint[] := rc.lock_workers(ARRAY(SELECT epoch FROM unnest(_calls)), _waits, 'live', 'draining');
    v_now bigint := rc.clock((_calls[1]).now);
BEGIN
    RETURN QUERY
    UPDATE rc.runs r SET status = 'running', started_at = v_now, rollback_ref = call.ref, saved = call.saved,
        saved_values = call.saved_values, saved_interrupts = call.saved_interrupts, updated_at = v_now,
        deadline_at = v_now + timeout_ms * 1000, stopped_at = NULL
    FROM unnest(_calls) WITH ORDINALITY call
    WHERE r.run_id = call.run_id AND call.run_id = ANY (v_locked) AND call.epoch = ANY (v_alive)
      AND owner_epoch = call.epoch AND r.fence = call.fence AND settled_at IS NULL AND COALESCE(status, '') = 'pending'
    RETURNING call.ordinality, 'started', home_epoch,
        (SELECT t."values" FROM rc.threads t WHERE t.thread_id = r.thread_id), NULL::rc.standing;
    IF FOUND OR NOT _waits THEN
        RETURN;
    END IF;
    -- A further attempt of a run that has started before keeps what its first start has written.
    UPDATE rc.runs r SET stopped_at = NULL, updated_at = v_now
        WHERE run_id = (_calls[1]).run_id AND (_calls[1]).epoch = ANY (v_alive) AND owner_epoch = (_calls[1]).epoch
          AND r.fence = (_calls[1]).fence AND settled_at IS NULL AND status = 'running' AND holds_thread
          AND stopped_at IS NOT NULL;
    place := 1;
    stands := rc.stands((_calls[1]).run_id);
    reply := CASE WHEN (_calls[1]).epoch = ANY (v_alive) AND (stands).owner_epoch = (_calls[1]).epoch
                  AND (stands).fence = (_calls[1]).fence AND (stands).status <> 'pending' THEN 'stands' ELSE 'lost' END;
    IF reply = 'stands' AND (stands).status = 'running' THEN
        vals := (SELECT t."values" FROM rc.threads t WHERE t.thread_id = (stands).thread_id);
    END IF;
    RETURN NEXT;
END $$;

-- Write the thread's values as the running holder; the first save of a run keeps the old ones. `_last`: also where
-- the run was cancelled without rollback and still holds its thread: once, which the audit shows; the same
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

-- Undo what the run saved; `vals` are the thread's values after that. Idempotent, also where it saved nothing.
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

-- Of the states that the thread has had, keep the newest, and mark its run: the state with which it began is gone. Of a
-- settled run nothing is restored, so its `rollback_ref` is free for the mark.
CREATE OR REPLACE FUNCTION rc.keep_latest(
    _run_id text, _thread_id text, _epoch bigint, _fence bigint, _mark text, _now bigint
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_state text;
    v_newest text;
BEGIN
    PERFORM FROM rc.threads WHERE thread_id = _thread_id FOR NO KEY UPDATE;
    v_state := rc.lock_worker(_epoch);
    IF v_state IS NULL OR v_state = 'dead' THEN
        RETURN false;
    END IF;
    PERFORM FROM rc.runs WHERE run_id = _run_id AND owner_epoch = _epoch AND fence = _fence AND settled_at IS NULL
        AND holds_thread AND status = 'running';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT run_id INTO v_newest FROM rc.runs
        WHERE thread_id = _thread_id AND checkpointed AND cancel_action IS DISTINCT FROM 'rollback'
        ORDER BY fence DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN true;
    END IF;
    UPDATE rc.runs SET checkpointed = run_id = v_newest,
        checkpoint_values = CASE WHEN run_id = v_newest THEN checkpoint_values END,
        rollback_ref = CASE WHEN run_id = v_newest THEN _mark END,
        saved = false, saved_values = NULL, saved_interrupts = NULL
    WHERE thread_id = _thread_id AND checkpointed AND settled_at IS NOT NULL;
    RETURN true;
END $$;

-- Decide, unless that was done, and settle; `hold` only decides. `reply`: 'written', with how it stands; 'stands' = the
-- caller owns the run and nothing was written: a rollback was decided first and waits for `settle`, or it was settled
-- before; 'lost'. `next_home`: see `next_worker`. A batch answers successes of runs over which nothing was decided; of
-- several for one run the first. A batch of one that names a run in `following` may have a second row: see `pass_on`.
CREATE OR REPLACE FUNCTION rc.finish(_calls rc.finishing[], _waits boolean)
RETURNS TABLE (place bigint, reply text, stands rc.standing, next_home bigint, children json)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_run_ids text[] := ARRAY(SELECT run_id FROM unnest(_calls));
    v_call rc.finishing := _calls[1];
    v_locked text[];
    v_alive bigint[];
    v_now bigint;
    v_places bigint[];
    v_stands rc.standing[];
BEGIN
    IF _waits THEN
        PERFORM FROM rc.threads WHERE thread_id = v_call.thread_id FOR NO KEY UPDATE;
        IF v_call.status <> 'success' THEN
            PERFORM rc.lock_family(array_remove(v_run_ids || v_call.following, NULL), NULL);
        ELSE
            PERFORM rc.lock_runs(array_remove(v_run_ids || v_call.following, NULL), true);
        END IF;
        v_locked := v_run_ids;
    ELSE
        v_locked := ARRAY(
            SELECT r.run_id FROM unnest(_calls) call
            JOIN rc.runs r ON r.run_id = call.run_id AND COALESCE(r.status, '') IN ('pending', 'running')
            JOIN rc.threads t ON t.thread_id = call.thread_id
            WHERE call.status = 'success'
            FOR NO KEY UPDATE OF r, t SKIP LOCKED);
    END IF;
    v_alive := rc.lock_workers(ARRAY(SELECT epoch FROM unnest(_calls)), _waits, 'live', 'draining');
    v_now := rc.clock(v_call.now);
    WITH call AS (
        SELECT *, status = 'success' AND fence > 0 AND ("values" IS NOT NULL OR paused OR interrupts IS NOT NULL) AS leaves
        FROM unnest(_calls) WITH ORDINALITY
    ), written AS (
        UPDATE rc.runs r SET
            holds_thread = holds_thread AND call.hold, settled_at = CASE WHEN NOT call.hold THEN v_now END,
            ended_at = COALESCE(r.ended_at, v_now), updated_at = v_now,
            cancel_delivered_at = COALESCE(call.delivered_at, cancel_delivered_at),
            stopped_at = COALESCE(call.stopped_at, r.stopped_at), log_end = COALESCE(call.log_end, r.log_end),
            -- A run that was cancelled and returned all the same leaves what it has returned, as its last save.
            checkpointed = r.checkpointed OR call.leaves AND (r.status IN ('pending', 'running')
                OR call."values" IS NOT NULL AND NOT call.hold AND r.status IN ('interrupted', 'timeout')
                   AND cancel_action IS NOT DISTINCT FROM 'interrupt'),
            checkpoint_values = CASE
                WHEN call.leaves AND call."values" IS NOT NULL AND r.status IN ('pending', 'running')
                    THEN CASE WHEN call.result IS DISTINCT FROM call."values" THEN call."values" END
                WHEN call.leaves AND call."values" IS NOT NULL AND NOT call.hold
                     AND r.status IN ('interrupted', 'timeout') AND cancel_action IS NOT DISTINCT FROM 'interrupt' THEN call."values"
                WHEN r.checkpointed OR call.leaves AND r.status IN ('pending', 'running') THEN COALESCE(
                    (SELECT t."values" FROM rc.threads t WHERE t.thread_id = call.thread_id), 'null') END,
            paused = CASE WHEN r.status IN ('pending', 'running') THEN call.paused ELSE r.paused END,
            interrupts = CASE WHEN r.status NOT IN ('pending', 'running') THEN r.interrupts
                              WHEN call.status = 'success' THEN call.interrupts END,
            result = CASE WHEN r.status IN ('pending', 'running') THEN call.result ELSE r.result END,
            error = CASE WHEN r.status IN ('pending', 'running') THEN call.error ELSE r.error END,
            status = CASE WHEN r.status IN ('pending', 'running') THEN call.status ELSE r.status END
        FROM call
        WHERE r.run_id = call.run_id AND call.ordinality = array_position(v_run_ids, call.run_id)
          AND call.run_id = ANY (v_locked) AND call.epoch = ANY (v_alive)
          AND owner_epoch = call.epoch AND r.fence = call.fence AND settled_at IS NULL
          AND (r.status IN ('pending', 'running')
               OR _waits AND (cancel_action IS DISTINCT FROM 'rollback' OR started_at IS NULL OR NOT holds_thread))
        RETURNING call.ordinality,
            (r.run_id, r.thread_id, r.status, settled_at, owner_epoch, home_epoch, r.fence, cancel_action, cancel_cause,
             cancel_reason, cancel_actor, r.error)::rc.standing AS stands
    ) SELECT array_agg(ordinality), array_agg(written.stands) INTO v_places, v_stands FROM written;
    IF v_places IS NULL THEN
        IF _waits THEN
            place := 1;
            stands := rc.stands(v_call.run_id);
            reply := rc.why_not(stands, v_call.epoch, v_call.fence, v_call.epoch = ANY (v_alive));
            next_home := CASE WHEN (stands).settled_at IS NOT NULL THEN rc.next_worker(v_call.thread_id) END;
            RETURN NEXT;
            IF reply = 'stands' AND (stands).settled_at IS NOT NULL THEN
                RETURN QUERY SELECT * FROM rc.pass_on(v_call, v_now);
            END IF;
        END IF;
        RETURN;
    END IF;
    IF _waits THEN
        children := rc.end_children(v_call.run_id, (v_stands[1]).status, v_now);
    END IF;
    WITH left_state AS (
    UPDATE rc.threads t SET "values" = COALESCE(call."values", t."values"),
        interrupts = CASE WHEN (stood).status = 'success' OR call.status <> 'success' THEN call.interrupts END,
        state_updated_at = CASE WHEN call."values" IS NOT NULL THEN v_now ELSE state_updated_at END, updated_at = v_now
    FROM (SELECT *, v_stands[array_position(v_places, ordinality)] AS stood
          FROM unnest(_calls) WITH ORDINALITY WHERE ordinality = ANY (v_places)) call
    WHERE t.thread_id = call.thread_id AND call.fence > 0
      -- A run that has not succeeded comes with values where its assistant keeps the state of the thread.
      AND CASE WHEN call.status <> 'success'
               THEN call."values" IS NOT NULL AND NOT call.hold AND (stood).cancel_action IS DISTINCT FROM 'rollback'
               WHEN (stood).status = 'success' AND (stood).cancel_action IS NULL
               -- A run answers the interrupts of its thread. An operation does if it has left a state.
               THEN call."values" IS NOT NULL OR call.interrupts IS NOT NULL OR t.interrupts IS NOT NULL
                    AND EXISTS (SELECT FROM rc.runs r WHERE r.run_id = call.run_id AND (r.kind = 'run' OR r.checkpointed))
               ELSE (stood).status IN ('interrupted', 'timeout') AND (stood).cancel_action = 'interrupt'
                    AND call."values" IS NOT NULL AND NOT call.hold END
        RETURNING call.run_id, call."values" AS vals, (stood).status AS status
    )  -- a webhook became due with the values from before
    UPDATE rc.webhooks w SET "values" = left_state.vals FROM left_state
    WHERE left_state.status <> 'success' AND w.run_id = left_state.run_id AND w.state = 'due';
    RETURN QUERY
    SELECT v_places[i], 'written', v_stands[i], rc.next_worker((v_stands[i]).thread_id), finish.children
    FROM generate_subscripts(v_places, 1) i;
    IF v_call.following IS NOT NULL AND NOT v_call.hold THEN
        RETURN QUERY SELECT * FROM rc.pass_on(v_call, v_now);
    END IF;
END $$;

-- The thread is free: the run in `following`, which is locked, takes it and starts, if it is the head of the queue and its
-- worker is the caller. One row then, with how it stands and, as `children`, the thread's values as a JSON string; the same
-- where it did so before and the answer was lost. A delayed run whose time has come is left to `claim`.
CREATE OR REPLACE FUNCTION rc.pass_on(_call rc.finishing, _now bigint)
RETURNS TABLE (place bigint, reply text, stands rc.standing, next_home bigint, children json)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_head text;
    v_home bigint;
    v_due boolean;
    v_fence bigint;
    v_start rc.starting;
BEGIN
    SELECT fence INTO v_fence FROM rc.runs
        WHERE run_id = _call.following AND owner_epoch = _call.epoch AND holds_thread;
    IF NOT FOUND THEN
        SELECT (array_agg(run_id ORDER BY seq) FILTER (WHERE not_before IS NULL))[1],
               (array_agg(home_epoch ORDER BY seq) FILTER (WHERE not_before IS NULL))[1],
               bool_or(holds_thread OR status <> 'pending' OR owner_epoch IS NOT NULL
                       OR home_epoch IS NULL AND NOT portable OR not_before <= _now)
            INTO v_head, v_home, v_due FROM rc.runs
            WHERE thread_id = _call.thread_id AND (holds_thread OR status IN ('pending', 'running'));
        IF v_due OR v_head IS DISTINCT FROM _call.following OR v_home IS DISTINCT FROM _call.epoch THEN
            RETURN;
        END IF;
        UPDATE rc.threads SET fence = fence + 1, updated_at = _now WHERE thread_id = _call.thread_id
            RETURNING fence INTO v_fence;
        UPDATE rc.runs SET holds_thread = true, owner_epoch = _call.epoch, fence = v_fence, updated_at = _now
            WHERE run_id = _call.following;
    END IF;
    v_start.run_id := _call.following;
    v_start.epoch := _call.epoch;
    v_start.fence := v_fence;
    v_start.ref := _call.following_ref;
    v_start.saved := false;
    v_start.now := _call.now;
    place := 1;
    SELECT s.reply, to_json(s.vals) INTO reply, children FROM rc.start(ARRAY[v_start], true) s;
    stands := rc.stands(_call.following);  -- a statement of its own, which sees the start
    RETURN NEXT;
END $$;

-- Free the thread of a run that was decided. `_values`: what `restore` returned.
CREATE OR REPLACE FUNCTION rc.settle_run(
    _run_id text, _thread_id text, _epoch bigint, _fence bigint, _error text, _values text,
    _rollback_state text, _delivered_at bigint, _stopped_at bigint, _log_end bigint, _now bigint,
    OUT reply text, OUT stands rc.standing, OUT next_home bigint
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
            stopped_at = COALESCE(_stopped_at, stopped_at), log_end = COALESCE(_log_end, log_end),
            cancel_delivered_at = COALESCE(_delivered_at, cancel_delivered_at),
            rollback_state = COALESCE(_rollback_state, rollback_state), error = COALESCE(_error, error)
            WHERE run_id = _run_id AND owner_epoch = _epoch AND fence = _fence AND settled_at IS NULL
              AND status NOT IN ('pending', 'running')
            RETURNING run_id, thread_id, status, settled_at, owner_epoch, home_epoch, fence,
                cancel_action, cancel_cause, cancel_reason, cancel_actor, error INTO stands;
    END IF;
    IF (stands).run_id IS NULL THEN
        stands := rc.stands(_run_id);
        reply := rc.why_not(stands, _epoch, _fence, v_state IN ('live', 'draining'));
    ELSE
        reply := 'written';
        IF _values IS NOT NULL THEN
            UPDATE rc.threads SET "values" = _values, state_updated_at = v_now, updated_at = v_now WHERE thread_id = _thread_id;
        END IF;
    END IF;
    IF reply = 'written' OR (stands).settled_at IS NOT NULL THEN
        next_home := rc.next_worker(_thread_id);
    END IF;
END $$;

-- For workers of the earlier release, which do not report where the log ends.
CREATE OR REPLACE FUNCTION rc.settle(
    _run_id text, _thread_id text, _epoch bigint, _fence bigint, _error text, _values text,
    _rollback_state text, _delivered_at bigint, _stopped_at bigint, _now bigint,
    OUT reply text, OUT stands rc.standing, OUT next_home bigint
) LANGUAGE sql AS $$
    SELECT * FROM rc.settle_run(
        _run_id, _thread_id, _epoch, _fence, _error, _values, _rollback_state, _delivered_at, _stopped_at, NULL, _now)
$$;

-- A guard has matched no row.
CREATE OR REPLACE FUNCTION rc.why_not(_stands rc.standing, _epoch bigint, _fence bigint, _alive boolean) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN (_stands).owner_epoch = _epoch AND (_stands).fence = _fence AND _alive THEN 'stands' ELSE 'lost' END
$$;

-- The home of the head of the queue; 0 = the head is portable and has no live home, so that any worker
-- that knows its assistant may claim; null = no run waits.
CREATE OR REPLACE FUNCTION rc.next_worker(_thread_id text) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT CASE WHEN portable AND NOT EXISTS (SELECT FROM rc.workers WHERE epoch = home_epoch AND state <> 'dead')
                    THEN 0 ELSE home_epoch END FROM rc.runs
        WHERE thread_id = _thread_id AND (holds_thread OR status IN ('pending', 'running'))
          AND status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL AND (home_epoch IS NOT NULL OR portable)
          AND not_before IS NULL
        ORDER BY seq LIMIT 1);
END $$;

-- Take a newer fence on a thread that the run still holds. Called again with the old fence, it returns the
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
