-- claim: the head of a queue takes the free thread. Before it, delayed runs join the queue.

-- Delayed runs whose time has come take the next places in the thread's queue, ahead of runs that are admitted after
-- that moment: so every transaction that places or claims a run does this first, under the thread's lock.
CREATE OR REPLACE FUNCTION rc.queue_due(_thread_id text, _now bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_due record;
BEGIN
    FOR v_due IN
        SELECT run_id FROM rc.runs
        WHERE thread_id = _thread_id AND (holds_thread OR status IN ('pending', 'running'))
          AND status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL
          AND (home_epoch IS NOT NULL OR portable) AND not_before <= _now
        ORDER BY not_before, seq
    LOOP
        UPDATE rc.runs SET seq = (SELECT next_seq + 1 FROM rc.threads WHERE thread_id = _thread_id),
            not_before = NULL, updated_at = _now
            WHERE run_id = v_due.run_id AND COALESCE(status, '') = 'pending' AND NOT holds_thread AND not_before IS NOT NULL;
        IF FOUND THEN
            UPDATE rc.threads SET next_seq = next_seq + 1 WHERE thread_id = _thread_id;
        END IF;
    END LOOP;
END $$;

-- Give a free thread to the head of its queue, if this worker may execute that run: the worker is its
-- home; or the run is portable, its home is dead, and the worker knows its assistant. A claimed run that
-- has not started is answered again: the first answer may be lost. `reply`: 'claimed', 'epoch dead'; null =
-- nothing to claim for this worker.
CREATE OR REPLACE FUNCTION rc.claim(
    _thread_id text, _epoch bigint, _now bigint, OUT reply text, OUT run_id text, OUT fence bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_state text;
    v_mine boolean;
    v_fence bigint;
    v_now bigint;
BEGIN
    IF COALESCE(rc.worker_state(_epoch), 'dead') = 'dead' THEN
        reply := 'epoch dead';
        RETURN;
    END IF;
    SELECT t.fence + 1 INTO v_fence FROM rc.threads t WHERE thread_id = _thread_id FOR NO KEY UPDATE;
    v_now := rc.clock(_now);
    PERFORM rc.queue_due(_thread_id, v_now);
    SELECT r.run_id, r.fence, owner_epoch = _epoch AND home_epoch IS NOT NULL AND started_at IS NULL
        INTO run_id, fence, v_mine FROM rc.runs r
        WHERE thread_id = _thread_id AND (holds_thread OR status IN ('pending', 'running'))
          AND NOT (status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL
                   AND (home_epoch IS NOT NULL OR portable))
        ORDER BY holds_thread DESC LIMIT 1;
    IF FOUND THEN
        reply := CASE WHEN v_mine THEN 'claimed' END;
        RETURN;
    END IF;
    LOOP
        SELECT r.run_id, home_epoch IS NOT DISTINCT FROM _epoch
            OR (portable AND NOT EXISTS (SELECT FROM rc.workers WHERE epoch = home_epoch AND state <> 'dead')
                AND EXISTS (SELECT FROM rc.workers WHERE epoch = _epoch AND state = 'live'
                            AND assistant_id = ANY (assistants)))
            INTO run_id, v_mine FROM rc.runs r
            WHERE thread_id = _thread_id AND (holds_thread OR status IN ('pending', 'running'))
              AND status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL
              AND (home_epoch IS NOT NULL OR portable) AND not_before IS NULL
            ORDER BY seq LIMIT 1;
        IF NOT FOUND OR NOT v_mine THEN
            RETURN;
        END IF;
        PERFORM FROM rc.runs r WHERE r.run_id = claim.run_id FOR NO KEY UPDATE;
        v_state := rc.lock_worker(_epoch);
        IF v_state IS NULL OR v_state = 'dead' THEN
            reply := 'epoch dead';
            RETURN;
        END IF;
        UPDATE rc.runs r SET holds_thread = true, owner_epoch = _epoch, home_epoch = _epoch, fence = v_fence,
            updated_at = v_now
            WHERE r.run_id = claim.run_id AND COALESCE(status, '') = 'pending' AND NOT holds_thread AND owner_epoch IS NULL;
        CONTINUE WHEN NOT FOUND;  -- decided at this very moment: try the next one
        UPDATE rc.threads t SET fence = v_fence, updated_at = v_now WHERE thread_id = _thread_id;
        reply := 'claimed';
        fence := v_fence;
        RETURN;
    END LOOP;
END $$;

-- Users with waiting portable runs, '' = none: those behind `_after`, then the others. From one to the next by index,
-- however many runs wait.
CREATE OR REPLACE FUNCTION rc.next_user(_after text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT COALESCE(user_id, '') FROM rc.runs
    WHERE status = 'pending' AND NOT holds_thread AND portable AND COALESCE(user_id, '') > _after
    ORDER BY COALESCE(user_id, '') LIMIT 1
$$;

-- Free threads whose next run has no live home, and that this worker may claim: of each user in turn, behind `_after`, the
-- oldest ones, at most `_limit` of each and of as many users. `place`: from 1, among those of the user. Left out are runs
-- of `_users` ('' = without a user) and `_assistants`. A read.
CREATE OR REPLACE FUNCTION rc.claimable(
    _epoch bigint, _limit bigint, _after text, _users text[], _assistants text[], _now bigint
) RETURNS TABLE (place bigint, thread_id text, user_id text, assistant_id text) LANGUAGE plpgsql STABLE
SET jit = off SET random_page_cost = 0
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    v_now bigint := rc.clock(_now);
    v_known text[] := ARRAY(
        SELECT unnest(assistants) FROM rc.workers WHERE epoch = _epoch AND state = 'live' EXCEPT SELECT unnest(_assistants));
    v_user text := rc.next_user(_after);
    v_wrapped boolean := false;
    v_users bigint := 0;
BEGIN
    WHILE cardinality(v_known) > 0 AND v_users < _limit LOOP
        IF v_user IS NULL AND NOT v_wrapped THEN
            v_wrapped := true;
            v_user := (SELECT COALESCE(r.user_id, '') FROM rc.runs r
                       WHERE status = 'pending' AND NOT holds_thread AND portable ORDER BY COALESCE(r.user_id, '') LIMIT 1);
        END IF;
        EXIT WHEN v_user IS NULL OR (v_wrapped AND v_user > _after);
        IF v_user <> ALL (_users) THEN
            RETURN QUERY
            SELECT row_number() OVER (ORDER BY w.created_us NULLS FIRST, w.run_id), w.thread_id, w.user_id, w.assistant_id
            FROM (
                SELECT r.* FROM rc.runs r
                WHERE status = 'pending' AND NOT holds_thread AND portable AND COALESCE(r.user_id, '') = v_user
                  AND owner_epoch IS NULL AND (not_before IS NULL OR not_before <= v_now)
                  AND r.assistant_id = ANY (v_known)
                  AND NOT EXISTS (SELECT FROM rc.workers WHERE epoch = home_epoch AND state <> 'dead')
                  AND NOT EXISTS (
                    SELECT FROM rc.runs o
                    WHERE o.thread_id = r.thread_id AND (o.holds_thread OR o.status IN ('pending', 'running'))
                      AND (o.holds_thread
                           OR o.status = 'pending' AND o.owner_epoch IS NULL AND (o.home_epoch IS NOT NULL OR o.portable)
                              AND o.not_before IS NULL AND (o.seq < r.seq OR r.not_before IS NOT NULL)))
                ORDER BY r.created_us NULLS FIRST, r.run_id LIMIT _limit
            ) w;
            IF FOUND THEN
                v_users := v_users + 1;
            END IF;
        END IF;
        v_user := rc.next_user(v_user);
    END LOOP;
END $$;

-- As claimable, of the children of the runs that this worker executes. The oldest come first.
CREATE OR REPLACE FUNCTION rc.claimable_children(_epoch bigint, _limit bigint, _now bigint)
RETURNS TABLE (thread_id text, user_id text, assistant_id text) LANGUAGE plpgsql STABLE
SET jit = off SET random_page_cost = 0
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    v_now bigint := rc.clock(_now);
    v_known text[] := ARRAY(SELECT unnest(assistants) FROM rc.workers WHERE epoch = _epoch AND state = 'live');
BEGIN
    RETURN QUERY
    SELECT r.thread_id, r.user_id, r.assistant_id
    FROM rc.runs p
    JOIN rc.runs r ON r.parent_run_id = p.run_id AND r.parent_run_id IS NOT NULL AND r.status IN ('pending', 'running')
    WHERE p.owner_epoch = _epoch AND p.holds_thread
      AND r.status = 'pending' AND NOT r.holds_thread AND r.portable
      AND r.owner_epoch IS NULL AND (r.not_before IS NULL OR r.not_before <= v_now)
      AND r.assistant_id = ANY (v_known)
      AND NOT EXISTS (SELECT FROM rc.workers WHERE epoch = r.home_epoch AND state <> 'dead')
      AND NOT EXISTS (
        SELECT FROM rc.runs o
        WHERE o.thread_id = r.thread_id AND (o.holds_thread OR o.status IN ('pending', 'running'))
          AND (o.holds_thread
               OR o.status = 'pending' AND o.owner_epoch IS NULL AND (o.home_epoch IS NOT NULL OR o.portable)
                  AND o.not_before IS NULL AND (o.seq < r.seq OR r.not_before IS NOT NULL)))
    ORDER BY r.created_us NULLS FIRST, r.run_id LIMIT _limit;
END $$;

-- By assistant: the number of waiting runs that no live worker can claim, and since when the first of them waits. A
-- draining worker claims none.
CREATE OR REPLACE FUNCTION rc.unclaimed(_now bigint)
RETURNS TABLE (assistant_id text, runs bigint, since bigint) LANGUAGE plpgsql STABLE
SET jit = off SET random_page_cost = 0
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    v_now bigint := rc.clock(_now);
    v_named text;
BEGIN
    SELECT COALESCE(r.assistant_id, '') INTO v_named FROM rc.runs r
        WHERE status = 'pending' AND NOT holds_thread AND portable ORDER BY COALESCE(r.assistant_id, '') LIMIT 1;
    WHILE v_named IS NOT NULL LOOP
        IF NOT EXISTS (SELECT FROM rc.workers WHERE state = 'live' AND v_named = ANY (assistants)) THEN
            RETURN QUERY
            SELECT NULLIF(v_named, ''), count(*), min(GREATEST(updated_at, COALESCE(not_before, 0))) FROM rc.runs r
            WHERE status = 'pending' AND NOT holds_thread AND portable AND COALESCE(r.assistant_id, '') = v_named
              AND owner_epoch IS NULL AND (not_before IS NULL OR not_before <= v_now)
              AND NOT EXISTS (SELECT FROM rc.workers WHERE epoch = home_epoch AND state <> 'dead')
            HAVING count(*) > 0;
        END IF;
        v_named := (SELECT COALESCE(r.assistant_id, '') FROM rc.runs r
                    WHERE status = 'pending' AND NOT holds_thread AND portable AND COALESCE(r.assistant_id, '') > v_named
                    ORDER BY COALESCE(r.assistant_id, '') LIMIT 1);
    END LOOP;
END $$;
