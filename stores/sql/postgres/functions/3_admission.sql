-- admit, insert, claim: how a run gets onto its thread. A refusal is an answer (`said`), not an error: it
-- has written nothing, and the server's log stays quiet.

-- Take the thread, join its line or be refused; `_beside`: without the one-run-per-thread rule, where the
-- thread is busy beside its slot (fence 0), for whatever user. Run again with the same id it finds the run.
CREATE FUNCTION rc.admit(
    _epoch bigint, _beside boolean, _run_id text, _kind text, _thread_id text, _user_id text,
    _assistant_id text, _strategy text, _on_disconnect text, _portable boolean, _key text, _request_hash text,
    _metadata text, _kwargs text, _model_name text, _created_at text, _created_us bigint, _parent text,
    _timeout_ms bigint, _idle_timeout_ms bigint, _queue_timeout_ms bigint,
    _per_thread bigint, _per_user bigint, _now bigint, _patient boolean,
    OUT said text, OUT about text, OUT holds boolean, OUT fence bigint, OUT seq bigint, OUT more json
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now bigint;
    v_fresh boolean := false;
    v_owner text;
    v_home boolean;
BEGIN
    IF _key IS NOT NULL THEN  -- the same key on another thread has another lock: one at a time
        PERFORM pg_advisory_xact_lock('rc.runs'::regclass::oid::int4, hashtext(_key));
    END IF;
    IF rc.lock_worker(_epoch) IS DISTINCT FROM 'live' THEN  -- a draining worker may still claim, but not admit
        said := 'epoch dead';
        RETURN;
    END IF;
    LOOP
        IF _patient THEN
            SELECT user_id, t.fence, next_seq INTO v_owner, fence, seq
                FROM rc.threads t WHERE thread_id = _thread_id FOR NO KEY UPDATE;
        ELSE
            SELECT user_id, t.fence, next_seq INTO v_owner, fence, seq
                FROM rc.threads t WHERE thread_id = _thread_id FOR NO KEY UPDATE SKIP LOCKED;
        END IF;
        EXIT WHEN FOUND;
        v_fresh := rc.make_thread(_thread_id, _patient);
        IF NOT _patient AND NOT v_fresh THEN
            said := 'busy';
            RETURN;
        END IF;
    END LOOP;
    v_now := rc.clock(_now);
    SELECT a.said, a.about, a.more INTO said, about, more
        FROM rc.may_admit(_beside, _run_id, _thread_id, _user_id, _key, _request_hash, _parent,
                          CASE WHEN v_fresh THEN NULL ELSE v_owner END) a;
    IF said IS NULL THEN
        SELECT p.said, p.about, p.holds, p.more INTO said, about, holds, more
            FROM rc.make_room(_beside, _run_id, _thread_id, _user_id, _strategy,
                              _per_thread, _per_user, v_now, _patient) p;
    END IF;
    IF said IS NOT NULL THEN
        IF v_fresh THEN
            DELETE FROM rc.threads WHERE thread_id = _thread_id;
        END IF;
        RETURN;
    END IF;
    said := 'admitted';
    seq := seq + 1;
    v_home := NOT holds AND NOT _beside;
    UPDATE rc.threads t SET user_id = COALESCE(user_id, _user_id),
        assistant_id = COALESCE(_assistant_id, assistant_id), fence = t.fence + holds::int, next_seq = seq,
        created_at = CASE WHEN v_fresh THEN v_now ELSE created_at END, updated_at = v_now
        WHERE thread_id = _thread_id;
    fence := CASE WHEN holds THEN fence + 1 ELSE 0 END;
    INSERT INTO rc.runs (run_id, kind, thread_id, user_id, assistant_id, holds_thread, owner_epoch, home_epoch,
        fence, seq, portable, multitask_strategy, on_disconnect, idempotency_key, request_hash, metadata, kwargs,
        model_name, created_at, created_us, updated_at, parent_run_id, timeout_ms, idle_timeout_ms,
        queue_deadline_at)
    VALUES (_run_id, _kind, _thread_id, _user_id, _assistant_id, holds,
        CASE WHEN NOT v_home THEN _epoch END, CASE WHEN v_home THEN _epoch END,
        fence, seq, _portable, _strategy, _on_disconnect, _key, _request_hash, _metadata, _kwargs,
        _model_name, _created_at, _created_us, v_now, _parent, _timeout_ms, _idle_timeout_ms,
        CASE WHEN v_home THEN v_now + _queue_timeout_ms * 1000 END);
END $$;

-- The row of a thread that is not there, with the fence that it had; it is locked then. False = somebody
-- else has made it, or (impatient) is about to. The lock keeps two from meeting in the index, where one
-- that must not wait would wait for the other's commit.
CREATE FUNCTION rc.make_thread(_thread_id text, _patient boolean) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF _patient THEN
        PERFORM pg_advisory_xact_lock('rc.threads'::regclass::oid::int4, hashtext(_thread_id));
    ELSIF NOT pg_try_advisory_xact_lock('rc.threads'::regclass::oid::int4, hashtext(_thread_id)) THEN
        RETURN false;
    END IF;
    INSERT INTO rc.threads (thread_id, fence, next_seq, created_at, updated_at)
        VALUES (_thread_id, COALESCE((SELECT fence FROM rc.deleted_threads WHERE thread_id = _thread_id), 0), 0, 0, 0)
        ON CONFLICT (thread_id) DO NOTHING;
    RETURN FOUND;
END $$;

-- Who asks, and was this asked before? In this order, so that nobody learns of a foreign thread's runs.
-- `said` is null where the run is new and may ask.
CREATE FUNCTION rc.may_admit(
    _beside boolean, _run_id text, _thread_id text, _user_id text, _key text, _request_hash text,
    _parent text, _owner text,
    OUT said text, OUT about text, OUT more json
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_found rc.runs;
    v_status text;
BEGIN
    IF NOT _beside AND _owner <> _user_id THEN
        said := 'thread not found';
        RETURN;
    END IF;
    SELECT * INTO v_found FROM rc.runs WHERE run_id = _run_id;
    IF FOUND THEN
        IF v_found.thread_id <> _thread_id OR v_found.user_id IS DISTINCT FROM _user_id THEN
            said := 'conflict';
            RETURN;
        END IF;
    ELSIF _key IS NOT NULL THEN
        SELECT * INTO v_found FROM rc.runs
            WHERE idempotency_key = _key
              AND (COALESCE(user_id, '') = COALESCE(_user_id, '') OR thread_id = _thread_id)
            ORDER BY (thread_id = _thread_id AND COALESCE(user_id, '') = COALESCE(_user_id, '')) DESC LIMIT 1;
        IF FOUND AND (v_found.user_id IS DISTINCT FROM _user_id OR v_found.thread_id <> _thread_id
                      OR v_found.request_hash IS DISTINCT FROM _request_hash) THEN
            said := 'key used';
            about := CASE WHEN v_found.user_id IS NOT DISTINCT FROM _user_id THEN v_found.run_id END;
            RETURN;
        END IF;
    END IF;
    IF v_found.run_id IS NOT NULL THEN
        said := 'existing';
        about := v_found.run_id;
        more := to_json(v_found);
        RETURN;
    END IF;
    IF _parent IS NULL THEN
        RETURN;
    END IF;
    -- A parent that was stopped meanwhile has taken its children along: one that comes too late would be
    -- left over. Another user's parent looks missing.
    SELECT status INTO v_status FROM rc.runs
        WHERE run_id = _parent AND kind = 'run' AND (_user_id IS NULL OR user_id = _user_id) FOR SHARE;
    IF NOT FOUND THEN
        said := 'no parent';
    ELSIF v_status NOT IN ('pending', 'running', 'success') THEN
        said := 'parent ended';
        about := v_status;
    END IF;
END $$;

-- By strategy: refuse, join the line, or decide what is in flight. `holds`: the run takes the thread.
CREATE FUNCTION rc.make_room(
    _beside boolean, _run_id text, _thread_id text, _user_id text, _strategy text,
    _per_thread bigint, _per_user bigint, _now bigint, _patient boolean,
    OUT said text, OUT about text, OUT holds boolean, OUT more json
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_ids text[];
    v_runs text[];
    v_held boolean;
    v_waiting bigint;
BEGIN
    SELECT array_agg(run_id ORDER BY holds_thread DESC, seq),
           array_agg(run_id ORDER BY holds_thread DESC, seq) FILTER (WHERE kind = 'run'),
           bool_or(holds_thread),
           count(*) FILTER (WHERE status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL
                            AND (home_epoch IS NOT NULL OR portable))
        INTO v_ids, v_runs, v_held, v_waiting
        FROM rc.runs WHERE thread_id = _thread_id AND (holds_thread OR status IN ('pending', 'running'));
    holds := v_ids IS NULL;
    IF holds OR _beside THEN
        RETURN;
    ELSIF _strategy = 'reject' THEN
        said := 'conflict';
        about := v_ids[1];
    ELSIF NOT _patient THEN
        said := 'busy';
    ELSIF _strategy = 'enqueue' THEN
        IF v_waiting >= _per_thread THEN
            said := 'line full';
            about := 'thread';
        ELSIF _per_user IS NOT NULL AND _user_id IS NOT NULL THEN
            PERFORM pg_advisory_xact_lock('rc.transitions'::regclass::oid::int4, hashtext(_user_id));
            IF (SELECT count(*) FROM rc.runs
                WHERE status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL
                  AND (home_epoch IS NOT NULL OR portable) AND user_id = _user_id) >= _per_user THEN
                said := 'line full';
                about := 'user';
            END IF;
        END IF;
    ELSE
        holds := NOT v_held;
        IF v_runs IS NOT NULL THEN
            more := rc.supersede(v_runs, _strategy, _run_id, _user_id, _now);
        END IF;
    END IF;
END $$;

-- Decide all of these, in favour of run `_by`. An array of what became of each: its standing, and its children's.
CREATE FUNCTION rc.supersede(_run_ids text[], _action text, _by text, _actor text, _now bigint)
RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    v_answers json[] := '{}';
    v_run_id text;
    v_decided record;
BEGIN
    -- All at once and by id, before the first of them is written: see 1_common.sql.
    PERFORM FROM rc.runs WHERE run_id = ANY (_run_ids || rc.kin(_run_ids)) ORDER BY run_id FOR UPDATE;
    FOREACH v_run_id IN ARRAY _run_ids LOOP
        SELECT * INTO v_decided FROM rc.decide(
            v_run_id, 'interrupted', _action, 'superseded', 'superseded by run ' || _by, _actor, NULL, false, _now
        );
        v_answers := v_answers || to_json(v_decided);
    END LOOP;
    RETURN array_to_json(v_answers);
END $$;

-- Give a free thread to the head of its waiting line, if that run is this worker's to execute: it is its
-- home; or the run is portable, its home is gone, and the worker knows its assistant. A claimed run that
-- has not started is answered again: the first answer may be lost. `said`: 'claimed', 'epoch dead'; null =
-- nothing to do here.
CREATE FUNCTION rc.claim(_thread_id text, _epoch bigint, _now bigint, OUT said text, OUT run_id text, OUT fence bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_state text;
    v_mine boolean;
    v_fence bigint;
    v_now bigint;
BEGIN
    v_state := rc.lock_worker(_epoch);
    IF v_state IS NULL OR v_state = 'dead' THEN
        said := 'epoch dead';
        RETURN;
    END IF;
    SELECT t.fence + 1 INTO v_fence FROM rc.threads t WHERE thread_id = _thread_id FOR NO KEY UPDATE;
    v_now := rc.clock(_now);
    SELECT r.run_id, r.fence, owner_epoch = _epoch AND home_epoch IS NOT NULL AND status = 'pending'
        INTO run_id, fence, v_mine FROM rc.runs r
        WHERE thread_id = _thread_id AND (holds_thread OR status IN ('pending', 'running'))
          AND NOT (status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL
                   AND (home_epoch IS NOT NULL OR portable))
        ORDER BY holds_thread DESC LIMIT 1;
    IF FOUND THEN
        said := CASE WHEN v_mine THEN 'claimed' END;
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
              AND (home_epoch IS NOT NULL OR portable)
            ORDER BY seq LIMIT 1;
        IF NOT FOUND OR NOT v_mine THEN
            RETURN;
        END IF;
        UPDATE rc.runs r SET holds_thread = true, owner_epoch = _epoch, home_epoch = _epoch, fence = v_fence,
            updated_at = v_now
            WHERE r.run_id = claim.run_id AND status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL;
        CONTINUE WHEN NOT FOUND;  -- decided at this very moment: who is next?
        UPDATE rc.threads t SET fence = v_fence, updated_at = v_now WHERE thread_id = _thread_id;
        said := 'claimed';
        fence := v_fence;
        RETURN;
    END LOOP;
END $$;
