-- decide: fix a run's outcome, once, for ever. Only the store determines which decision came first.

-- The runs in flight below these runs, through runs in flight. UNION: each once, whatever the rows contain.
CREATE OR REPLACE FUNCTION rc.kin(_run_ids text[]) RETURNS text[] LANGUAGE sql STABLE AS $$
    WITH RECURSIVE kin (run_id) AS (
        SELECT run_id FROM rc.runs
        WHERE parent_run_id = ANY (_run_ids) AND status IN ('pending', 'running')
        UNION
        SELECT child.run_id FROM kin JOIN rc.runs child
        ON child.parent_run_id = kin.run_id AND child.status IN ('pending', 'running')
    ) SELECT array_agg(run_id) FROM kin
$$;

-- Lock the runs, `_parent` (null: none), and the runs in flight below the runs, all by id, before the first of them is
-- written. An admission of a child locks its parent's row (FOR SHARE), so that once all are locked no child can be
-- added.
CREATE OR REPLACE FUNCTION rc.lock_family(_run_ids text[], _parent text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_locked text[] := '{}';
    v_family text[];
BEGIN
    LOOP
        v_family := array_remove(_run_ids || _parent, NULL) || rc.kin(_run_ids);
        EXIT WHEN v_family <@ v_locked;
        PERFORM FROM rc.runs WHERE run_id = ANY (v_family) ORDER BY run_id FOR UPDATE;
        v_locked := v_family;
    END LOOP;
END $$;

-- The run has ended with `_status`: unless that is success, its children in flight are cancelled with it. Its family is
-- locked. Returns an array of standings as arrays; null = no child was in flight.
CREATE OR REPLACE FUNCTION rc.end_children(_run_id text, _status text, _now bigint) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    v_kin text[];
    v_ended json;
BEGIN
    IF _status = 'success' THEN
        RETURN NULL;
    END IF;
    v_kin := rc.kin(ARRAY[_run_id]);
    IF v_kin IS NULL THEN
        RETURN NULL;
    END IF;
    WITH ended AS (
        UPDATE rc.runs SET status = 'interrupted', cancel_action = 'interrupt', cancel_cause = 'parent',
            cancel_reason = 'run ' || _run_id || ' ended: ' || _status, cancel_actor = NULL,
            cancel_requested_at = _now, ended_at = _now, updated_at = _now,
            settled_at = CASE WHEN owner_epoch IS NULL THEN _now END
        WHERE run_id = ANY (v_kin) AND COALESCE(status, '') IN ('pending', 'running')
        RETURNING json_build_array(run_id, thread_id, status, settled_at, owner_epoch, home_epoch, fence,
            cancel_action, cancel_cause, cancel_reason, cancel_actor, error) AS stands
    ) SELECT json_agg(stands) INTO v_ended FROM ended;
    RETURN v_ended;
END $$;

-- Decide pending or running runs. `won`: this very call did; of several for one run the first that applies. A run
-- without an owner (waiting, or imported) settles at once; the slot of any other is kept until its owner has seen the
-- task stop. A batch leaves out runs with children, open ones that are locked, and calls that did not apply before the
-- one that did: how the run stood at that point is no longer known.
CREATE OR REPLACE FUNCTION rc.decide(_calls rc.deciding[], _waits boolean)
RETURNS TABLE (place bigint, won boolean, stands rc.standing, children json)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_run_ids text[] := ARRAY(SELECT run_id FROM unnest(_calls));
    v_locked text[];
    v_parents text[] := '{}';
    v_now bigint;
    v_won bigint[];
    v_children json;
BEGIN
    IF _waits THEN
        PERFORM rc.lock_family(v_run_ids, NULL);
        v_locked := v_run_ids;
    ELSE  -- FOR UPDATE: an admission of a child locks its parent FOR SHARE, and none can from here on
        v_locked := ARRAY(
            SELECT run_id FROM rc.runs WHERE run_id = ANY (v_run_ids) AND COALESCE(status, '') IN ('pending', 'running')
            FOR UPDATE SKIP LOCKED);
        v_parents := ARRAY(
            SELECT DISTINCT parent_run_id FROM rc.runs
            WHERE parent_run_id = ANY (v_locked) AND parent_run_id IS NOT NULL AND status IN ('pending', 'running'));
    END IF;
    v_now := rc.clock((_calls[1]).now);
    WITH first AS MATERIALIZED (
        SELECT DISTINCT ON (call.run_id) call.*
        FROM unnest(_calls) WITH ORDINALITY call JOIN rc.runs r ON r.run_id = call.run_id
        WHERE call.run_id = ANY (v_locked) AND call.run_id <> ALL (v_parents)
          AND (NOT while_waiting OR (r.status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL))
          AND (home IS NULL OR home_epoch = home)
        ORDER BY call.run_id, call.ordinality
    ), decided AS (
        UPDATE rc.runs r SET status = first.status, cancel_action = first.action, cancel_cause = first.cause,
            cancel_reason = first.reason, cancel_actor = first.actor, cancel_requested_at = v_now,
            error = COALESCE(first.error, r.error), ended_at = v_now, updated_at = v_now,
            settled_at = CASE WHEN owner_epoch IS NULL THEN v_now END
        FROM first WHERE r.run_id = first.run_id AND COALESCE(r.status, '') IN ('pending', 'running')
        RETURNING first.ordinality
    ) SELECT COALESCE(array_agg(ordinality), '{}') INTO v_won FROM decided;
    IF _waits AND v_won <> '{}' THEN
        v_children := rc.end_children((_calls[1]).run_id, (_calls[1]).status, v_now);
    END IF;
    RETURN QUERY
    SELECT call.place, call.place = ANY (v_won),
        (r.run_id, r.thread_id, status, settled_at, owner_epoch, home_epoch, r.fence, cancel_action, cancel_cause,
         cancel_reason, cancel_actor, r.error)::rc.standing, v_children
    FROM unnest(v_run_ids) WITH ORDINALITY call (run_id, place)
    LEFT JOIN rc.runs r ON r.run_id = call.run_id
    WHERE call.run_id <> ALL (v_parents)
      AND (r.run_id IS NULL OR status NOT IN ('pending', 'running') OR r.run_id = ANY (v_locked))
      AND NOT EXISTS (SELECT FROM unnest(v_won) later (place)
                      WHERE later.place > call.place AND v_run_ids[later.place] = call.run_id);
END $$;

-- One call that fails soon where it would have to wait for a lock: its connection is needed by other calls.
CREATE OR REPLACE FUNCTION rc.decide_briefly(_calls rc.deciding[], _waits boolean)
RETURNS TABLE (place bigint, won boolean, stands rc.standing, children json)
LANGUAGE sql SET lock_timeout = '100ms' AS $$
    SELECT place, won, stands, children FROM rc.decide(_calls, _waits)
$$;

-- Take back an admission whose caller disconnected: interrupted and settled, its thread is free. Only for a
-- run of this epoch to which no task was ever attached. A cancel that came first keeps its cause and is
-- settled as well. The caller has the answer of the admission, or has made it impossible.
CREATE OR REPLACE FUNCTION rc.withdraw(
    _run_id text, _epoch bigint, _now bigint,
    OUT won boolean, OUT stands rc.standing, OUT children json
) LANGUAGE plpgsql AS $$
DECLARE
    v_now bigint;
BEGIN
    PERFORM FROM rc.threads WHERE thread_id = (SELECT thread_id FROM rc.runs WHERE run_id = _run_id)
        FOR NO KEY UPDATE;
    PERFORM rc.lock_family(ARRAY[_run_id], NULL);
    v_now := rc.clock(_now);
    UPDATE rc.runs SET status = CASE WHEN status IN ('pending', 'running') THEN 'interrupted' ELSE status END,
        cancel_action = COALESCE(cancel_action, 'interrupt'),
        cancel_cause = COALESCE(cancel_cause, 'disconnect'),
        cancel_requested_at = COALESCE(cancel_requested_at, v_now),
        cancel_reason = COALESCE(cancel_reason, 'the caller of the admission was cancelled'),
        -- No task was attached, so there is nothing to undo.
        rollback_state = CASE WHEN cancel_action = 'rollback' AND started_at IS NOT NULL THEN 'done'
                              ELSE rollback_state END,
        holds_thread = false, settled_at = v_now, ended_at = COALESCE(ended_at, v_now), updated_at = v_now
    WHERE run_id = _run_id AND COALESCE(owner_epoch, home_epoch) = _epoch AND settled_at IS NULL;
    won := FOUND;
    stands := rc.stands(_run_id);
    IF won THEN
        children := rc.end_children(_run_id, (stands).status, v_now);
    END IF;
END $$;
