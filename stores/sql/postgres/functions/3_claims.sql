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
