-- register, beat, fence_worker, sweep: which workers are alive, and what becomes of the runs of dead ones.

-- Issue an epoch. `_proof` is drawn for each registration, so that a repeated call returns the same epoch.
CREATE OR REPLACE FUNCTION rc.register(
    _worker_id text, _host text, _boot_id text, _pid bigint, _proof text, _version text, _ttl_ms bigint,
    _assistants text[], _now bigint
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_now bigint := rc.clock(_now);
    v_epoch bigint;
BEGIN
    PERFORM pg_advisory_xact_lock('rc.deleted_threads'::regclass::oid::int4, hashtext(_proof));
    SELECT epoch INTO v_epoch FROM rc.workers WHERE proof = _proof AND state <> 'dead';
    IF NOT FOUND THEN
        INSERT INTO rc.workers (worker_id, host, boot_id, pid, proof, version, state, ttl_ms, lease_until,
                                started_at, assistants)
        VALUES (_worker_id, _host, _boot_id, _pid, _proof, _version, 'live', _ttl_ms, v_now + _ttl_ms * 1000,
                v_now, _assistants)
        RETURNING epoch INTO v_epoch;
    END IF;
    RETURN v_epoch;
END $$;

CREATE OR REPLACE FUNCTION rc.register_worker(
    _worker_id text, _host text, _boot_id text, _pid bigint, _proof text, _version text, _ttl_ms bigint,
    _assistants text[], _admits_only boolean, _now bigint
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_epoch bigint := rc.register(_worker_id, _host, _boot_id, _pid, _proof, _version, _ttl_ms, _assistants, _now);
BEGIN
    IF _admits_only THEN
        UPDATE rc.workers SET admits_only = true WHERE epoch = v_epoch;
    END IF;
    RETURN v_epoch;
END $$;

-- Renew the lease of the registration that this worker was issued the epoch with (null = whichever has it).
-- False = the worker is fenced: the epoch was declared dead, or the store has lost the registration (a failover to a
-- server without the last commits, a backup) and may have issued its number again.
CREATE OR REPLACE FUNCTION rc.beat(_epoch bigint, _worker_id text, _now bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE rc.workers SET hb_seq = hb_seq + 1, lease_until = rc.clock(_now) + ttl_ms * 1000
        WHERE epoch = _epoch AND state <> 'dead' AND (_worker_id IS NULL OR worker_id = _worker_id);
    RETURN FOUND;
END $$;

-- From here on this worker admits nothing, and its waiting portable runs have no home any more: both in one
-- transaction, so that no portable run is admitted in between. A dead worker hands nothing over. A run that is locked
-- is being decided or claimed, or another client holds its row: it keeps its home, and is free for other workers when
-- this one has ended. Waiting for the row would keep all writes of the worker waiting.
CREATE OR REPLACE FUNCTION rc.drain(_epoch bigint, _now bigint) RETURNS TABLE (run_id text, thread_id text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now bigint;
BEGIN
    PERFORM rc.change_worker(_epoch);
    UPDATE rc.workers SET state = 'draining' WHERE epoch = _epoch AND state <> 'dead';
    IF NOT FOUND THEN
        RETURN;
    END IF;
    v_now := rc.clock(_now);
    RETURN QUERY
        WITH mine AS (
            SELECT r.run_id FROM rc.runs r
            WHERE home_epoch = _epoch AND status = 'pending' AND NOT holds_thread AND portable
            ORDER BY r.run_id FOR UPDATE SKIP LOCKED
        )
        UPDATE rc.runs r SET home_epoch = NULL, updated_at = v_now FROM mine WHERE r.run_id = mine.run_id
        RETURNING r.run_id, r.thread_id;
END $$;

-- Record that a worker (null = every worker) is requested to drain. It does what a drain takes by itself.
CREATE OR REPLACE FUNCTION rc.request_drain(_epoch bigint, _grace_ms bigint, _now bigint)
RETURNS TABLE (requested bigint, already boolean) LANGUAGE sql AS $$
    WITH live AS (
        SELECT epoch FROM rc.workers WHERE state <> 'dead' AND (_epoch IS NULL OR epoch = _epoch)
        ORDER BY epoch FOR NO KEY UPDATE
    )
    UPDATE rc.workers w SET drain_asked_at = rc.clock(_now), drain_grace_ms = _grace_ms
    FROM live WHERE w.epoch = live.epoch RETURNING w.epoch, w.state = 'draining'
$$;

-- The worker leaves by itself; `_worker_id` as in `beat`. Its runs in flight are ended by the calls
-- that follow (`end_orphan`).
CREATE OR REPLACE FUNCTION rc.retire(_epoch bigint, _worker_id text, _now bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM rc.change_worker(_epoch);
    UPDATE rc.workers SET state = 'dead', fenced_by = _epoch, fenced_at = rc.clock(_now)
        WHERE epoch = _epoch AND state <> 'dead' AND (_worker_id IS NULL OR worker_id = _worker_id);
END $$;

-- Compare-and-set on the heartbeat that the caller watched. False = the worker lives (it renewed meanwhile). The
-- lease must also have expired by the store's clock, unless death is proven. Fails soon where it would have to wait for
-- a lock: the peers that are examined after this one are not to wait as well.
CREATE OR REPLACE FUNCTION rc.fence_worker(_epoch bigint, _hb_seq bigint, _by bigint, _proven boolean, _now bigint)
RETURNS boolean LANGUAGE plpgsql SET lock_timeout = '500ms' AS $$
DECLARE
    v_now bigint;
BEGIN
    PERFORM rc.change_worker(_epoch);
    v_now := rc.clock(_now);
    UPDATE rc.workers SET state = 'dead', fenced_by = _by, fenced_at = v_now
        WHERE epoch = _epoch AND hb_seq = _hb_seq AND state <> 'dead' AND (_proven OR lease_until < v_now);
    RETURN FOUND;
END $$;

-- Declare a worker dead on the word of `_actor`, whatever its heartbeat and its lease. The runs that are ended then
-- name `_actor`. False = it is dead already, or was never registered.
CREATE OR REPLACE FUNCTION rc.declare_dead(_epoch bigint, _by bigint, _actor text, _now bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM rc.change_worker(_epoch);
    UPDATE rc.workers SET state = 'dead', fenced_by = _by, fenced_at = rc.clock(_now), fenced_actor = _actor
        WHERE epoch = _epoch AND state <> 'dead';
    RETURN FOUND;
END $$;

-- Open intervals of epochs that no live worker has: dead ones and missing ones, however many. `_only`: that epoch alone.
CREATE OR REPLACE FUNCTION rc.gone(_only bigint) RETURNS TABLE (after bigint, before bigint)
LANGUAGE plpgsql STABLE ROWS 3 AS $$
#variable_conflict use_column
BEGIN
    IF _only IS NOT NULL THEN
        RETURN QUERY SELECT _only - 1, _only + 1
            WHERE NOT EXISTS (SELECT FROM rc.workers WHERE epoch = _only AND state <> 'dead');
        RETURN;
    END IF;
    after := -1;
    FOR before IN SELECT epoch FROM rc.workers WHERE state <> 'dead' ORDER BY epoch LOOP
        IF before > after + 1 THEN
            RETURN NEXT;
        END IF;
        after := before;
    END LOOP;
    before := 9223372036854775807;
    RETURN NEXT;
END $$;

-- Assistants of waiting portable runs that no live worker knows; '' = none. From one to the next by index, however many
-- runs wait.
CREATE OR REPLACE FUNCTION rc.unknown_assistants() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_named text;
BEGIN
    SELECT COALESCE(assistant_id, '') INTO v_named FROM rc.runs
        WHERE status = 'pending' AND NOT holds_thread AND portable ORDER BY COALESCE(assistant_id, '') LIMIT 1;
    WHILE v_named IS NOT NULL LOOP
        IF NOT EXISTS (SELECT FROM rc.workers WHERE state <> 'dead' AND v_named = ANY (assistants)) THEN
            RETURN NEXT v_named;
        END IF;
        v_named := (SELECT COALESCE(assistant_id, '') FROM rc.runs
                    WHERE status = 'pending' AND NOT holds_thread AND portable AND COALESCE(assistant_id, '') > v_named
                    ORDER BY COALESCE(assistant_id, '') LIMIT 1);
    END LOOP;
END $$;

-- Runs in flight without a live worker; `_only`: those of one epoch. A read: each is checked again under its lock. A
-- portable run without a home waits `_patience` us for a worker that knows its assistant. Parents first: they cancel
-- their children. It begins at epochs, and reads no run whose worker lives; OFFSET 0 keeps the planner from joining the
-- other way round. No plan depends on an argument, so none is made for each call.
CREATE OR REPLACE FUNCTION rc.orphaned(_only bigint, _before bigint, _patience bigint, _now bigint)
RETURNS SETOF rc.runs LANGUAGE plpgsql STABLE
SET jit = off SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_unknown text[] := CASE WHEN _only IS NULL THEN ARRAY(SELECT rc.unknown_assistants()) END;
    v_run_ids text[];
BEGIN
    WITH gone AS MATERIALIZED (SELECT after, before FROM rc.gone(_only))
    SELECT array_agg(run_id) INTO v_run_ids FROM (
        SELECT run_id FROM gone, LATERAL (
            SELECT run_id FROM rc.runs WHERE owner_epoch > after AND owner_epoch < before AND holds_thread OFFSET 0) held
        UNION ALL
        SELECT run_id FROM gone, LATERAL (
            SELECT run_id FROM rc.runs WHERE owner_epoch > after AND owner_epoch < before
              AND NOT holds_thread AND owner_epoch IS NOT NULL AND settled_at IS NULL
              AND status IN ('pending', 'running') OFFSET 0) beside
        UNION ALL
        SELECT run_id FROM gone, LATERAL (
            SELECT run_id FROM rc.runs WHERE home_epoch > after AND home_epoch < before
              AND status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL AND NOT portable OFFSET 0) waiting
        UNION ALL
        SELECT run_id FROM rc.runs
        WHERE owner_epoch IS NULL
          AND (status = 'running' OR status = 'pending' AND home_epoch IS NULL AND NOT portable)
          AND CASE WHEN home_epoch IS NULL THEN _only IS NULL
                   ELSE EXISTS (SELECT FROM gone WHERE home_epoch > after AND home_epoch < before) END
    ) orphans;
    IF cardinality(v_unknown) > 0 THEN
        v_run_ids := v_run_ids || ARRAY(
            SELECT run_id FROM unnest(v_unknown) unknown (assistant_id), LATERAL (
                SELECT run_id, home_epoch FROM rc.runs r
                WHERE status = 'pending' AND NOT holds_thread AND portable AND owner_epoch IS NULL
                  AND COALESCE(r.assistant_id, '') = unknown.assistant_id
                  AND GREATEST(updated_at, COALESCE(not_before, 0)) < rc.clock(_now) - _patience OFFSET 0) waiting
            WHERE NOT EXISTS (SELECT FROM rc.workers WHERE epoch = home_epoch AND state <> 'dead'));
    END IF;
    RETURN QUERY SELECT * FROM rc.runs
        WHERE run_id = ANY (v_run_ids) AND (_before IS NULL OR created_us < _before)
        ORDER BY parent_run_id IS NOT NULL, created_us NULLS FIRST, run_id;
END $$;

CREATE OR REPLACE FUNCTION rc.attempts(_rollback_state text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN _rollback_state ~ '^(adopted|tried) [0-9]+$'
                THEN split_part(_rollback_state, ' ', 2)::bigint ELSE 0 END
$$;

-- End one of the runs that `orphaned` returned, if it is still in flight and has the same owner; a half-done rollback is
-- adopted by `_by` with a new fence, at most `_attempts` times. `_legible`: its rollback_ref can be read. `reply`:
-- 'ended', 'adopted'; null = another worker was faster, `_by` is dead, or the run waits for a further attempt
-- (`adopt_attempt`). `children`: see
-- `end_children`. A run beside the slot may have been decided since, with its parent. Fails soon where it would have to
-- wait for a lock; the run is returned again in the next sweep.
CREATE OR REPLACE FUNCTION rc.end_orphan(
    _run_id text, _thread_id text, _epoch bigint, _by bigint, _error text, _legible boolean, _attempts bigint,
    _now bigint,
    OUT reply text, OUT status text, OUT fence bigint, OUT decided boolean, OUT children json
) LANGUAGE plpgsql SET lock_timeout = '500ms' AS $$
#variable_conflict use_column
DECLARE
    v_run rc.runs;
    v_undo boolean;
    v_now bigint;
BEGIN
    PERFORM FROM rc.threads WHERE thread_id = _thread_id FOR NO KEY UPDATE;
    PERFORM rc.lock_family(ARRAY[_run_id], NULL);
    IF _by IS NOT NULL AND COALESCE(rc.lock_worker(_by), 'dead') = 'dead' THEN
        _by := NULL;  -- a zombie adopts nothing
    END IF;
    SELECT * INTO v_run FROM rc.runs r
        WHERE run_id = _run_id AND (holds_thread OR settled_at IS NULL)
          AND COALESCE(owner_epoch, home_epoch) IS NOT DISTINCT FROM _epoch FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    v_now := rc.clock(_now);
    decided := v_run.status NOT IN ('pending', 'running');
    IF _legible AND rc.waits_for_attempt(v_run, 600000000, v_now) THEN
        RETURN;
    END IF;
    v_undo := decided AND v_run.holds_thread AND v_run.cancel_action IS NOT DISTINCT FROM 'rollback'
              AND v_run.started_at IS NOT NULL;
    IF v_undo AND _legible AND rc.attempts(v_run.rollback_state) < _attempts THEN
        IF _by IS NOT NULL THEN  -- else the next reaper adopts it
            reply := 'adopted';
            status := v_run.status;
            fence := rc.adopt(_run_id, _thread_id, _by, 'adopted ' || rc.attempts(v_run.rollback_state) + 1, v_now);
        END IF;
        RETURN;
    END IF;
    UPDATE rc.runs r SET
        cancel_cause = CASE WHEN decided THEN cancel_cause ELSE 'orphaned' END,
        cancel_actor = CASE WHEN decided THEN cancel_actor
                            WHEN _epoch IS NOT NULL THEN COALESCE(
                                (SELECT 'worker epoch ' || epoch || ' was declared dead by ' || fenced_actor
                                 FROM rc.workers WHERE epoch = _epoch),
                                'worker epoch ' || _epoch || ' is gone') END,
        error = CASE WHEN v_undo THEN 'Rollback failed ' || _attempts || ' times'
                     WHEN decided THEN error
                     WHEN rc.deaths_before_start(v_run) >= 3
                     THEN rc.deaths_before_start(v_run) || ' workers have died before they started it. ' || _error
                     WHEN r.status = 'pending' AND NOT holds_thread AND portable AND owner_epoch IS NULL
                         THEN 'No worker has executed this run: no live worker executed its assistant for 10 minutes.'
                     WHEN attempt > 1 THEN 'Attempt ' || attempt || ' of ' || attempt + retries || ': ' || _error
                     ELSE _error END,
        rollback_state = CASE WHEN v_undo THEN 'failed' ELSE rollback_state END,
        status = CASE WHEN decided THEN r.status ELSE 'error' END,
        checkpoint_values = CASE WHEN checkpointed THEN COALESCE(
            (SELECT t."values" FROM rc.threads t WHERE t.thread_id = _thread_id), 'null') END,
        holds_thread = false, settled_at = v_now, ended_at = COALESCE(ended_at, v_now), updated_at = v_now
        WHERE run_id = _run_id RETURNING r.status INTO status;
    reply := 'ended';
    children := rc.end_children(_run_id, status, v_now);
END $$;

CREATE OR REPLACE FUNCTION rc.adopt(_run_id text, _thread_id text, _by bigint, _state text, _now bigint)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_fence bigint;
BEGIN
    UPDATE rc.threads SET fence = fence + 1, updated_at = _now WHERE thread_id = _thread_id
        RETURNING fence INTO v_fence;
    UPDATE rc.runs SET owner_epoch = _by, fence = v_fence, rollback_state = _state, updated_at = _now
        WHERE run_id = _run_id;
    RETURN v_fence;
END $$;

-- The attempt of this owner, the first or an adopter, has failed: another one, counted in the row, with
-- a new fence. Called again with the old fence, it returns the new one. Null = there have been `_attempts`, or
-- the run does not belong to this owner any more.
CREATE OR REPLACE FUNCTION rc.readopt(
    _run_id text, _thread_id text, _epoch bigint, _fence bigint, _attempts bigint, _now bigint
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_worker text;
    v_fence bigint;
    v_state text;
    v_tried bigint;
BEGIN
    PERFORM FROM rc.threads WHERE thread_id = _thread_id FOR NO KEY UPDATE;
    PERFORM FROM rc.runs WHERE run_id = _run_id FOR UPDATE;
    v_worker := rc.lock_worker(_epoch);
    SELECT fence, COALESCE(rollback_state, '') INTO v_fence, v_state FROM rc.runs
        WHERE run_id = _run_id AND owner_epoch = _epoch AND fence >= _fence AND holds_thread
          AND v_worker IN ('live', 'draining') FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF v_fence > _fence THEN
        RETURN v_fence;
    END IF;
    v_tried := GREATEST(rc.attempts(v_state), 1);
    IF v_tried >= _attempts THEN
        RETURN NULL;
    END IF;
    RETURN rc.adopt(_run_id, _thread_id, _epoch,
                    CASE WHEN v_state LIKE 'adopted%' THEN 'adopted ' ELSE 'tried ' END || v_tried + 1,
                    rc.clock(_now));
END $$;

-- Settle decided runs beside the slot whose owner is dead: no owner will.
CREATE OR REPLACE FUNCTION rc.settle_strays(_now bigint) RETURNS void LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_strays text[];
BEGIN
    v_strays := ARRAY(
        SELECT run_id FROM rc.gone(NULL), LATERAL (
            SELECT run_id FROM rc.runs WHERE owner_epoch > after AND owner_epoch < before
              AND NOT holds_thread AND owner_epoch IS NOT NULL AND settled_at IS NULL
              AND cancel_action IS NOT NULL OFFSET 0) stray);
    IF cardinality(v_strays) > 0 THEN
        v_strays := ARRAY(SELECT run_id FROM rc.runs
            WHERE run_id = ANY (v_strays) AND NOT holds_thread AND settled_at IS NULL
            ORDER BY run_id FOR UPDATE SKIP LOCKED);
        UPDATE rc.runs SET settled_at = rc.clock(_now), updated_at = rc.clock(_now) WHERE run_id = ANY (v_strays);
    END IF;
END $$;
