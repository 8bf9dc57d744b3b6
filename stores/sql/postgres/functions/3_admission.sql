-- admit, insert, claim: how a run gets onto its thread. A refusal is an answer (`said`), not an error: it
-- has written nothing, and the server's log stays quiet.

-- Take the thread, join its line, wait for its time or be refused; `_beside`: without the
-- one-run-per-thread rule, where the thread is busy beside its slot (fence 0), for whatever user. Run again
-- with the same id it finds the run.
CREATE OR REPLACE FUNCTION rc.admit(
    _epoch bigint, _beside boolean, _run_id text, _kind text, _thread_id text, _user_id text,
    _assistant_id text, _strategy text, _on_disconnect text, _portable boolean, _metadata text, _kwargs text,
    _model_name text, _created_at text, _created_us bigint, _timeout_ms bigint, _idle_timeout_ms bigint,
    _must_exist boolean, _adopt boolean, _temporary_ms bigint, _webhook text, _now bigint,
    _key text, _request_hash text, _stamp text,
    -- from here on: not for many at once
    _parent text, _delay_ms bigint, _queue_timeout_ms bigint,
    _cron_id text, _cron_at bigint, _cron_next bigint, _per_thread bigint, _per_user bigint,
    OUT said text, OUT about text, OUT holds boolean, OUT fence bigint, OUT seq bigint, OUT temporary boolean,
    OUT more json
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now bigint;
    v_fresh boolean := false;
    v_owner text;
    v_home boolean;
    v_not_before bigint;
BEGIN
    IF rc.worker_state(_epoch) IS DISTINCT FROM 'live' THEN  -- a draining worker may still claim, but not admit
        said := 'epoch dead';
        RETURN;
    END IF;
    IF _key IS NOT NULL THEN  -- the same key on another thread has another lock: one at a time
        PERFORM pg_advisory_xact_lock('rc.runs'::regclass::oid::int4, hashtext(_key));
    END IF;
    LOOP
        SELECT user_id, t.fence, next_seq, t.temporary INTO v_owner, fence, seq, temporary
            FROM rc.threads t WHERE thread_id = _thread_id FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
        IF _must_exist THEN
            said := 'thread not found';
            RETURN;
        END IF;
        v_fresh := rc.make_thread(_thread_id);
    END LOOP;
    v_now := rc.clock(_now);
    IF NOT _beside AND _user_id <> COALESCE(v_owner, '') AND (v_owner IS NOT NULL OR NOT v_fresh AND NOT _adopt) THEN
        said := 'thread not found';
    ELSE
        SELECT a.said, a.about, a.more INTO said, about, more
            FROM rc.asked_before(_run_id, _thread_id, _user_id, _key, _request_hash) a;
    END IF;
    IF said IS NULL AND _cron_id IS NOT NULL AND NOT rc.cron_due(_cron_id, _cron_at, v_now) THEN
        said := 'cron fired';
    END IF;
    IF said IS NULL THEN
        SELECT p.said, p.about, p.holds, p.more INTO said, about, holds, more
            FROM rc.make_room(_epoch, _beside, _run_id, _thread_id, _user_id, _strategy, _parent, _delay_ms IS NOT NULL,
                              _per_thread, _per_user, v_now) p;
    END IF;
    IF said IS NOT NULL THEN
        IF v_fresh THEN
            DELETE FROM rc.threads WHERE thread_id = _thread_id;
        END IF;
        RETURN;
    END IF;
    IF more IS NOT NULL AND NOT EXISTS
            (SELECT FROM rc.runs WHERE run_id = _parent AND status IN ('pending', 'running', 'success')) THEN
        _parent := NULL; -- who takes the place of its own parent is nobody's child: else it would end with that
    END IF;
    said := 'admitted';
    v_home := NOT holds AND NOT _beside;
    v_not_before := v_now + _delay_ms * 1000;
    temporary := CASE WHEN v_fresh THEN _temporary_ms IS NOT NULL ELSE temporary END;
    UPDATE rc.threads t SET user_id = COALESCE(user_id, _user_id),
        assistant_id = COALESCE(_assistant_id, assistant_id), metadata = rc.stamped(metadata, _stamp),
        fence = t.fence + holds::int,
        next_seq = next_seq + 1, updated_at = v_now,
        created_at = CASE WHEN v_fresh THEN v_now ELSE created_at END,
        ttl_ms = CASE WHEN v_fresh THEN _temporary_ms ELSE ttl_ms END, temporary = admit.temporary
        WHERE thread_id = _thread_id RETURNING t.fence, next_seq INTO fence, seq;
    fence := CASE WHEN holds THEN fence ELSE 0 END;
    INSERT INTO rc.runs (run_id, kind, thread_id, user_id, assistant_id, holds_thread, owner_epoch, home_epoch,
        fence, seq, portable, multitask_strategy, on_disconnect, idempotency_key, request_hash, metadata, kwargs,
        model_name, created_at, created_us, updated_at, parent_run_id, timeout_ms, idle_timeout_ms,
        queue_deadline_at, not_before)
    VALUES (_run_id, _kind, _thread_id, _user_id, _assistant_id, holds,
        CASE WHEN NOT v_home THEN _epoch END, CASE WHEN v_home THEN _epoch END,
        fence, seq, _portable, _strategy, _on_disconnect, _key, _request_hash, _metadata, _kwargs,
        _model_name, _created_at, _created_us, v_now, _parent, _timeout_ms, _idle_timeout_ms,
        CASE WHEN v_home THEN COALESCE(v_not_before, v_now) + _queue_timeout_ms * 1000 END, v_not_before);
    IF _cron_id IS NOT NULL THEN
        PERFORM rc.advance_cron(_cron_id, _cron_at, _cron_next, _run_id, NULL);
    END IF;
    IF _webhook IS NOT NULL THEN
        INSERT INTO rc.webhooks (run_id, thread_id, user_id, url, created_at)
        VALUES (_run_id, _thread_id, _user_id, _webhook, v_now);
    END IF;
END $$;

-- A thread's metadata with the keys of `_stamp`, both JSON objects. What cannot be read stays as it is.
CREATE OR REPLACE FUNCTION rc.stamped(_metadata text, _stamp text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF _stamp IS NULL OR right(_metadata, length(_stamp) - 1) = substr(_stamp, 2) THEN
        RETURN _metadata;  -- as it was stamped before: no need to read it
    ELSIF _metadata = '{}' THEN
        RETURN _stamp;
    ELSIF rc.as_jsonb(_metadata) @> rc.as_jsonb(_stamp) THEN
        RETURN _metadata;
    END IF;
    BEGIN
        RETURN (
            SELECT '{' || string_agg(to_json(key)::text || ':' || value, ',' ORDER BY place) || '}' FROM (
                SELECT key, COALESCE(new.value, held.value)::text AS value, place
                FROM json_each(_metadata::json) WITH ORDINALITY held (key, value, place)
                LEFT JOIN json_each(_stamp::json) new (key, value) USING (key)
                UNION ALL
                SELECT key, value::text, 1000000 + place
                FROM json_each(_stamp::json) WITH ORDINALITY new (key, value, place)
                WHERE key NOT IN (SELECT json_object_keys(_metadata::json))
            ) merged);
    EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
        -- Half of a pair is JSON, and text that json_each cannot make. Of two equal keys the last one counts.
        RETURN CASE WHEN jsonb_typeof(rc.as_jsonb(_metadata)) = 'object'
                    THEN left(_metadata, -1) || ',' || substr(_stamp, 2) ELSE _metadata END;
    END;
END $$;

-- The row of a thread that is not there, with the fence that it had; it is locked then. False = somebody
-- else has made it. The lock keeps two from meeting in the index, where a batch, which must not wait, would
-- wait for the other's commit.
CREATE OR REPLACE FUNCTION rc.make_thread(_thread_id text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock('rc.threads'::regclass::oid::int4, hashtext(_thread_id));
    INSERT INTO rc.threads (thread_id, fence, next_seq, created_at, updated_at)
        VALUES (_thread_id, COALESCE((SELECT fence FROM rc.deleted_threads WHERE thread_id = _thread_id), 0), 0, 0, 0)
        ON CONFLICT (thread_id) DO NOTHING;
    RETURN FOUND;
END $$;

-- `said` is null where the run is new. A run that is deleted and whose webhook is not has its id still.
CREATE OR REPLACE FUNCTION rc.asked_before(
    _run_id text, _thread_id text, _user_id text, _key text, _request_hash text,
    OUT said text, OUT about text, OUT more json
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_found rc.runs;
BEGIN
    IF NOT EXISTS (SELECT FROM rc.runs WHERE run_id = _run_id) THEN
        IF EXISTS (SELECT FROM rc.webhooks WHERE run_id = _run_id) THEN
            said := 'conflict';
            RETURN;
        ELSIF _key IS NULL THEN
            RETURN;
        END IF;
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
            ORDER BY (thread_id = _thread_id AND COALESCE(user_id, '') = COALESCE(_user_id, '')) DESC, run_id
            LIMIT 1;
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
    END IF;
END $$;

-- Null = a child may be admitted. A parent that was stopped meanwhile has taken its children along: one that
-- comes too late would be left over. Another user's parent looks missing.
CREATE OR REPLACE FUNCTION rc.check_parent(_parent text, _user_id text, OUT said text, OUT about text)
LANGUAGE plpgsql AS $$
BEGIN
    SELECT status INTO about FROM rc.runs
        WHERE run_id = _parent AND kind = 'run' AND (_user_id IS NULL OR user_id = _user_id) FOR SHARE;
    IF NOT FOUND THEN
        said := 'no parent';
    ELSIF about NOT IN ('pending', 'running', 'success') THEN
        said := 'parent ended';
    END IF;
END $$;

-- By strategy: refuse, join the line, or decide what is in flight. `holds`: the run takes the thread. Delayed
-- runs whose time has come are taken to stand in the line, and join it where nobody is refused. Where nothing is refused
-- the worker is live, and stays so until the end: it is locked when all that may have to wait is over.
CREATE OR REPLACE FUNCTION rc.make_room(
    _epoch bigint, _beside boolean, _run_id text, _thread_id text, _user_id text, _strategy text, _parent text,
    _delayed boolean, _per_thread bigint, _per_user bigint, _now bigint,
    OUT said text, OUT about text, OUT holds boolean, OUT more json
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_first text;
    v_runs text[];
    v_held boolean;
    v_in_the_way boolean;
    v_waiting bigint;
    v_due boolean;
    v_replaces boolean := _strategy IN ('interrupt', 'rollback');
BEGIN
    SELECT (array_agg(run_id))[1], array_agg(run_id) FILTER (WHERE kind = 'run'),
           bool_or(holds_thread), bool_or(not_before IS NULL OR not_before <= _now),
           count(*) FILTER (WHERE status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL
                            AND (home_epoch IS NOT NULL OR portable)),
           bool_or(not_before <= _now)
        INTO v_first, v_runs, v_held, v_in_the_way, v_waiting, v_due
        FROM (SELECT run_id, kind, status, holds_thread, owner_epoch, home_epoch, portable, not_before FROM rc.runs
              WHERE thread_id = _thread_id AND (holds_thread OR status IN ('pending', 'running'))
              ORDER BY holds_thread DESC, not_before IS NOT NULL AND not_before > _now, not_before IS NOT NULL,
                       CASE WHEN not_before <= _now THEN not_before END, seq) in_flight;
    IF v_first IS NULL AND NOT _delayed AND _parent IS NULL OR _beside THEN
        holds := NOT COALESCE(v_in_the_way, false);
        IF rc.lock_worker(_epoch) IS DISTINCT FROM 'live' THEN
            said := 'epoch dead';
        END IF;
        RETURN;
    ELSIF v_first IS NOT NULL AND _strategy = 'reject' AND _parent IS NULL THEN
        said := 'conflict';
        about := v_first;
        RETURN;
    END IF;
    IF v_replaces AND v_runs IS NOT NULL THEN
        PERFORM rc.lock_family(v_runs, _parent);
    END IF;
    IF _parent IS NOT NULL THEN
        SELECT c.said, c.about INTO said, about FROM rc.check_parent(_parent, _user_id) c;
        IF said IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;
    IF v_first IS NOT NULL AND _strategy = 'reject' THEN
        said := 'conflict';
        about := v_first;
        RETURN;
    END IF;
    holds := NOT _delayed
        AND NOT COALESCE(CASE WHEN v_replaces THEN v_held ELSE v_in_the_way END, false);
    IF NOT holds THEN
        IF NOT v_replaces AND v_waiting >= _per_thread THEN
            said := 'line full';
            about := 'thread';
            RETURN;
        ELSIF _per_user IS NOT NULL AND _user_id IS NOT NULL THEN
            PERFORM pg_advisory_xact_lock('rc.transitions'::regclass::oid::int4, hashtext(_user_id));
            IF (SELECT count(*) FROM (
                    SELECT FROM rc.runs
                    WHERE status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL
                      AND (home_epoch IS NOT NULL OR portable) AND user_id = _user_id
                      AND (NOT v_replaces OR thread_id <> _thread_id) LIMIT _per_user) its) >= _per_user THEN
                said := 'line full';
                about := 'user';
                RETURN;
            END IF;
        END IF;
    END IF;
    IF rc.lock_worker(_epoch) IS DISTINCT FROM 'live' THEN
        said := 'epoch dead';
        RETURN;
    END IF;
    IF v_due THEN
        PERFORM rc.queue_due(_thread_id, _now);
    END IF;
    IF v_replaces AND v_runs IS NOT NULL THEN
        more := rc.supersede(v_runs, _strategy, _run_id, _user_id, _now);
    END IF;
END $$;

-- Delayed runs whose time has come take the next places in the thread's line. Before whoever comes after
-- that moment, so every transaction that places or claims a run does it first, under the thread's lock.
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
            WHERE run_id = v_due.run_id AND status = 'pending' AND NOT holds_thread AND not_before IS NOT NULL;
        IF FOUND THEN
            UPDATE rc.threads SET next_seq = next_seq + 1 WHERE thread_id = _thread_id;
        END IF;
    END LOOP;
END $$;

-- Decide all of these, whose families are locked, in favour of run `_by`. An array of what became of each: its standing, and its children's.
CREATE OR REPLACE FUNCTION rc.supersede(_run_ids text[], _action text, _by text, _actor text, _now bigint)
RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    v_answers json[] := '{}';
    v_run_id text;
    v_decided record;
BEGIN
    FOREACH v_run_id IN ARRAY _run_ids LOOP
        SELECT * INTO v_decided FROM rc.decide(
            v_run_id, 'interrupted', _action, 'superseded', 'superseded by run ' || _by, _actor, NULL,
            false, NULL, _now
        );
        v_answers := v_answers || to_json(v_decided);
    END LOOP;
    RETURN array_to_json(v_answers);
END $$;

-- Give a free thread to the head of its waiting line, if that run is this worker's to execute: it is its
-- home; or the run is portable, its home is gone, and the worker knows its assistant. A claimed run that
-- has not started is answered again: the first answer may be lost. `said`: 'claimed', 'epoch dead'; null =
-- nothing to do here.
CREATE OR REPLACE FUNCTION rc.claim(_thread_id text, _epoch bigint, _now bigint, OUT said text, OUT run_id text, OUT fence bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_state text;
    v_mine boolean;
    v_fence bigint;
    v_now bigint;
BEGIN
    IF COALESCE(rc.worker_state(_epoch), 'dead') = 'dead' THEN
        said := 'epoch dead';
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
              AND (home_epoch IS NOT NULL OR portable) AND not_before IS NULL
            ORDER BY seq LIMIT 1;
        IF NOT FOUND OR NOT v_mine THEN
            RETURN;
        END IF;
        PERFORM FROM rc.runs r WHERE r.run_id = claim.run_id FOR NO KEY UPDATE;
        v_state := rc.lock_worker(_epoch);
        IF v_state IS NULL OR v_state = 'dead' THEN
            said := 'epoch dead';
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
