-- admit and insert: how a run gets onto its thread. A refusal is a reply, not an error: it has written nothing, and
-- nothing is logged by the server.

-- Take the thread, join its queue, wait for its time or be refused; `beside`: without the one-run-per-thread rule, where
-- the thread is busy beside its slot (fence 0), for any user. Called again with the same id it returns the existing run.
-- `reply`: 'admitted', 'started', 'existing', or why the run is refused; `detail`: the run, the limit or the status that the
-- refusal names; of a run that has started, the thread's values. `holds`: it took the thread. `related`: the runs that it replaced, or the existing run.
--
-- A batch admits to threads that are free, of several calls for one thread the first; and it refuses a `reject` where
-- the thread is held. A call whose key was used before is left out.
CREATE OR REPLACE FUNCTION rc.admit(_calls rc.admission[], _waits boolean) RETURNS TABLE (
    place bigint, reply text, detail text, holds boolean, fence bigint, seq bigint, temporary boolean, related json
) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_checked record;
    v_unplaced text[];
BEGIN
    IF _waits THEN
        SELECT * INTO v_checked FROM rc.admissible(_calls[1]);
        IF v_checked.reply IS NULL THEN
            RETURN QUERY SELECT * FROM rc.place(_calls, '{1}', v_checked.made,
                                                v_checked.holds AND (_calls[1]).dispatched IS NOT TRUE,
                                                v_checked.related, v_checked.now);
            IF (_calls[1]).cron_id IS NOT NULL THEN
                PERFORM rc.advance_cron((_calls[1]).cron_id, (_calls[1]).cron_at, (_calls[1]).cron_next,
                                        (_calls[1]).run_id, NULL);
            END IF;
            RETURN;
        END IF;
        RETURN QUERY SELECT 1::bigint, v_checked.reply, v_checked.detail, NULL::boolean, NULL::bigint, NULL::bigint,
                            NULL::boolean, v_checked.related;
        v_unplaced := v_checked.made;
    ELSE
        SELECT * INTO v_checked FROM rc.plain_admissions(_calls);
        RETURN QUERY SELECT r.place, 'conflict', r.blocker, NULL::boolean, NULL::bigint, NULL::bigint, NULL::boolean,
                            NULL::json
            FROM unnest(v_checked.refused, v_checked.blockers) r (place, blocker);
        IF v_checked.places <> '{}' THEN
            RETURN QUERY SELECT * FROM rc.place(_calls, v_checked.places, v_checked.made, true, NULL, v_checked.now);
        END IF;
        v_unplaced := ARRAY(SELECT unnest(v_checked.made)
                            EXCEPT SELECT (_calls[placed]).thread_id FROM unnest(v_checked.places) placed);
    END IF;
    IF v_unplaced <> '{}' THEN
        DELETE FROM rc.threads WHERE thread_id = ANY (v_unplaced);
    END IF;
END $$;

-- May this one run be admitted? `reply` is null where it may, and then `holds`: it takes the thread. Waits for locks.
CREATE OR REPLACE FUNCTION rc.admissible(
    _call rc.admission, OUT reply text, OUT detail text, OUT holds boolean, OUT related json, OUT made text[],
    OUT now bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_fresh boolean := false;
    v_owner text;
BEGIN
    made := '{}';
    IF rc.worker_state(_call.epoch) IS DISTINCT FROM 'live' THEN  -- a draining worker may still claim, but not admit
        reply := 'epoch dead';
        RETURN;
    END IF;
    IF _call.idempotency_key IS NOT NULL THEN  -- the same key on another thread has another lock: one at a time
        PERFORM pg_advisory_xact_lock('rc.runs'::regclass::oid::int4, hashtext(_call.idempotency_key));
    END IF;
    LOOP
        SELECT user_id INTO v_owner FROM rc.threads WHERE thread_id = _call.thread_id FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
        IF _call.thread_must_exist THEN
            reply := 'thread not found';
            RETURN;
        END IF;
        v_fresh := rc.make_thread(_call.thread_id);
    END LOOP;
    IF v_fresh THEN
        made := ARRAY[_call.thread_id];
    END IF;
    now := rc.clock(_call.now);
    IF NOT _call.beside AND _call.user_id <> COALESCE(v_owner, '')
       AND (v_owner IS NOT NULL OR NOT v_fresh AND NOT _call.adopt_thread) THEN
        reply := 'thread not found';
        RETURN;
    END IF;
    SELECT a.reply, a.detail, a.related INTO reply, detail, related
        FROM rc.existing_run(_call.run_id, _call.thread_id, _call.user_id, _call.idempotency_key, _call.request_hash) a;
    IF reply IS NULL AND _call.cron_id IS NOT NULL AND NOT rc.cron_due(_call.cron_id, _call.cron_at, now) THEN
        reply := 'cron fired';
    END IF;
    IF reply IS NULL THEN
        SELECT p.reply, p.detail, p.holds, p.related INTO reply, detail, holds, related FROM rc.make_room(_call, now) p;
    END IF;
END $$;

-- Which of these may take their threads (`places`), and which are refused because of another run (`refused`, `blockers`).
-- The others are left out.
CREATE OR REPLACE FUNCTION rc.plain_admissions(
    _calls rc.admission[], OUT places bigint[], OUT refused bigint[], OUT blockers text[], OUT made text[], OUT now bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_live bigint[] := rc.lock_workers(ARRAY(SELECT epoch FROM unnest(_calls)), false, 'live');
    v_keys text[] := ARRAY(SELECT idempotency_key FROM unnest(_calls));
    -- An admission with one of the other keys is under way elsewhere, or is over.
    v_free_keys text[] := ARRAY(
        SELECT key FROM (SELECT DISTINCT unnest(v_keys) AS key) keys
        WHERE key IS NOT NULL AND pg_try_advisory_xact_lock('rc.runs'::regclass::oid::int4, hashtext(key)));
    v_locked text[] := ARRAY(
        SELECT thread_id FROM rc.threads WHERE thread_id = ANY (ARRAY(SELECT thread_id FROM unnest(_calls)))
        FOR NO KEY UPDATE SKIP LOCKED);
BEGIN
    now := rc.clock((_calls[1]).now);
    -- A new thread is written once: as it is when the first run of it that is plain has taken it.
    WITH fresh AS (
        INSERT INTO rc.threads (thread_id, user_id, assistant_id, metadata, fence, next_seq, created_at, updated_at, ttl_ms,
                                temporary)
        SELECT thread_id, user_id, assistant_id, COALESCE(fresh_metadata, rc.stamped('{}', stamp)),
            1 + COALESCE((SELECT d.fence FROM rc.deleted_threads d WHERE d.thread_id = new.thread_id), 0), 1, now, now,
            temporary_ms, temporary_ms IS NOT NULL
        FROM (SELECT DISTINCT ON (thread_id) thread_id, user_id, assistant_id, stamp, fresh_metadata, temporary_ms
              FROM unnest(_calls) WITH ORDINALITY call
              WHERE epoch = ANY (v_live) AND NOT thread_must_exist AND thread_id <> ALL (v_locked)
                -- An insert would wait for a transaction that has changed the row.
                AND NOT EXISTS (SELECT FROM rc.threads t WHERE t.thread_id = call.thread_id OFFSET 0)
              ORDER BY thread_id, ordinality) new
        WHERE pg_try_advisory_xact_lock('rc.threads'::regclass::oid::int4, hashtext(thread_id))
        ON CONFLICT DO NOTHING
        RETURNING thread_id
    ) SELECT COALESCE(array_agg(thread_id), '{}') INTO made FROM fresh;
    WITH plain AS MATERIALIZED (
        SELECT call.ordinality AS place, call.run_id, call.thread_id, call.user_id, call.multitask_strategy, call.beside,
               t.user_id AS owner,
               row_number() OVER (PARTITION BY call.thread_id ORDER BY call.ordinality) AS nth,
               EXISTS (SELECT FROM rc.runs r WHERE r.run_id = call.run_id OFFSET 0)
               OR EXISTS (SELECT FROM rc.webhooks w WHERE w.run_id = call.run_id OFFSET 0)
               OR call.idempotency_key IS NOT NULL AND (
                   call.idempotency_key <> ALL (v_free_keys)
                   OR call.ordinality > array_position(v_keys, call.idempotency_key)
                   OR EXISTS (SELECT FROM rc.runs r WHERE r.idempotency_key = call.idempotency_key OFFSET 0)) AS known
        FROM unnest(_calls) WITH ORDINALITY call JOIN rc.threads t ON t.thread_id = call.thread_id
        WHERE call.thread_id = ANY (v_locked || made) AND epoch = ANY (v_live)
          AND NOT (thread_must_exist AND call.thread_id = ANY (made))
          AND (beside OR call.user_id IS NULL OR call.user_id = t.user_id
               OR t.user_id IS NULL AND (adopt_thread OR call.thread_id = ANY (made)))
    ), holding AS MATERIALIZED (
        SELECT place, thread_id, run_id FROM plain
        WHERE nth = 1 AND NOT known
          AND NOT EXISTS (SELECT FROM rc.runs r WHERE r.thread_id BETWEEN plain.thread_id AND plain.thread_id
                          AND (r.holds_thread OR r.status IN ('pending', 'running')) ORDER BY r.thread_id OFFSET 0)
    ), refused_calls AS (
        SELECT plain.place, COALESCE(blocking.first, holding.run_id) AS by
        FROM plain
        LEFT JOIN holding ON holding.thread_id = plain.thread_id
        LEFT JOIN LATERAL (
            SELECT (array_agg(r.run_id ORDER BY r.holds_thread DESC, r.not_before IS NOT NULL, r.seq))[1] AS first,
                   bool_or(r.not_before <= now) AS due
            FROM rc.runs r
            WHERE r.thread_id = plain.thread_id AND (r.holds_thread OR r.status IN ('pending', 'running'))
        ) blocking ON true
        WHERE holding.place IS DISTINCT FROM plain.place AND NOT known AND NOT beside AND multitask_strategy = 'reject'
          AND (plain.user_id IS NULL OR plain.user_id = owner) AND NOT COALESCE(blocking.due, false)
    )
    SELECT ARRAY(SELECT h.place FROM holding h), array_agg(refused_calls.place), array_agg(by)
        INTO places, refused, blockers FROM refused_calls WHERE by IS NOT NULL;
END $$;

-- Write the runs that are admitted, those of `_places`. Either all of them hold their threads, or it is one run
-- that does not.
CREATE OR REPLACE FUNCTION rc.place(
    _calls rc.admission[], _places bigint[], _made text[], _holds boolean, _related json, _now bigint
) RETURNS TABLE (
    place bigint, reply text, detail text, holds boolean, fence bigint, seq bigint, temporary boolean, related json
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH call AS MATERIALIZED (
        SELECT *, ordinality AS place, thread_id = ANY (_made) AS fresh, NOT _holds AND NOT beside AS waits,
            _now + delay_ms * 1000 AS not_before, _holds AND start_ref IS NOT NULL AS starts
        FROM unnest(_calls) WITH ORDINALITY WHERE ordinality = ANY (_places)
    ), taken AS (
        UPDATE rc.threads t SET user_id = CASE WHEN fresh THEN call.user_id ELSE COALESCE(t.user_id, call.user_id) END,
            assistant_id = COALESCE(call.assistant_id, t.assistant_id),
            metadata = CASE WHEN fresh THEN COALESCE(fresh_metadata, rc.stamped('{}', stamp))
                            ELSE rc.stamped(t.metadata, stamp) END,
            fence = t.fence + _holds::int, next_seq = t.next_seq + 1, updated_at = _now,
            created_at = CASE WHEN fresh THEN _now ELSE t.created_at END,
            ttl_ms = CASE WHEN fresh THEN temporary_ms ELSE t.ttl_ms END,
            temporary = CASE WHEN fresh THEN temporary_ms IS NOT NULL ELSE t.temporary END
        FROM call WHERE t.thread_id = call.thread_id AND NOT (fresh AND t.next_seq > 0)
        RETURNING call.place, CASE WHEN _holds THEN t.fence ELSE 0 END AS fence, t.next_seq AS seq, t.temporary,
            call.starts, CASE WHEN call.starts THEN t."values" END AS vals
    ), placed AS (
        SELECT * FROM taken
        UNION ALL  -- a batch has written its new threads as taken
        SELECT call.place, t.fence, t.next_seq, t.temporary, call.starts, NULL
        FROM call JOIN rc.threads t ON t.thread_id = call.thread_id WHERE fresh AND t.next_seq > 0
    ), born AS (
        INSERT INTO rc.runs (run_id, kind, thread_id, user_id, assistant_id, parent_run_id, holds_thread, owner_epoch,
            home_epoch, fence, seq, portable, multitask_strategy, on_disconnect, idempotency_key, request_hash, metadata,
            kwargs, model_name, created_at, created_us, updated_at, timeout_ms, idle_timeout_ms, queue_deadline_at,
            not_before, status, started_at, rollback_ref, deadline_at, retries, extra, user_document)
        SELECT run_id, kind, thread_id, user_id, assistant_id,
            -- A run that takes the place of its own parent becomes no child of it: else it would end with the parent.
            CASE WHEN beside OR EXISTS (SELECT FROM rc.runs p WHERE p.run_id = call.parent_run_id
                                        AND p.status IN ('pending', 'running', 'success')) THEN parent_run_id END,
            _holds, CASE WHEN NOT waits THEN epoch END, CASE WHEN waits AND dispatched IS NOT TRUE THEN epoch END,
            placed.fence, placed.seq, portable, multitask_strategy, on_disconnect, idempotency_key, request_hash, metadata,
            kwargs, model_name, created_at, created_us, _now, timeout_ms, idle_timeout_ms,
            CASE WHEN waits THEN COALESCE(not_before, _now) + queue_timeout_ms * 1000 END, not_before,
            CASE WHEN call.starts THEN 'running' ELSE 'pending' END, CASE WHEN call.starts THEN _now END,
            CASE WHEN call.starts THEN start_ref END, CASE WHEN call.starts THEN _now + timeout_ms * 1000 END,
            COALESCE(retries, 0), COALESCE(extra, '{}'), user_document
        FROM call JOIN placed ON placed.place = call.place ORDER BY call.place
    ), webhooks AS (
        INSERT INTO rc.webhooks (run_id, thread_id, user_id, url, created_at)
        SELECT run_id, thread_id, user_id, webhook, _now FROM call WHERE webhook IS NOT NULL
    )
    SELECT placed.place, CASE WHEN starts THEN 'started' ELSE 'admitted' END, vals, _holds, placed.fence, placed.seq,
        placed.temporary, _related FROM placed;
END $$;

-- `reply` is null where the run is new. The id of a deleted run stays in use while its webhook is kept.
CREATE OR REPLACE FUNCTION rc.existing_run(
    _run_id text, _thread_id text, _user_id text, _key text, _request_hash text,
    OUT reply text, OUT detail text, OUT related json
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_run rc.runs;
BEGIN
    IF NOT EXISTS (SELECT FROM rc.runs WHERE run_id = _run_id) THEN
        IF EXISTS (SELECT FROM rc.webhooks WHERE run_id = _run_id) THEN
            reply := 'conflict';
            RETURN;
        ELSIF _key IS NULL THEN
            RETURN;
        END IF;
    END IF;
    SELECT * INTO v_run FROM rc.runs WHERE run_id = _run_id;
    IF FOUND THEN
        IF v_run.thread_id <> _thread_id OR v_run.user_id IS DISTINCT FROM _user_id THEN
            reply := 'conflict';
            RETURN;
        END IF;
    ELSIF _key IS NOT NULL THEN
        SELECT * INTO v_run FROM rc.runs
            WHERE idempotency_key = _key
              AND (COALESCE(user_id, '') = COALESCE(_user_id, '') OR thread_id = _thread_id)
            ORDER BY (thread_id = _thread_id AND COALESCE(user_id, '') = COALESCE(_user_id, '')) DESC, run_id
            LIMIT 1;
        IF FOUND AND (v_run.user_id IS DISTINCT FROM _user_id OR v_run.thread_id <> _thread_id
                      OR v_run.request_hash IS DISTINCT FROM _request_hash) THEN
            reply := 'key used';
            detail := CASE WHEN v_run.user_id IS NOT DISTINCT FROM _user_id THEN v_run.run_id END;
            RETURN;
        END IF;
    END IF;
    IF v_run.run_id IS NOT NULL THEN
        reply := 'existing';
        detail := v_run.run_id;
        related := to_json(v_run);
    END IF;
END $$;

-- Null = a child may be admitted. A parent that was stopped has cancelled its children: one that is admitted later
-- would be left over. Another user's parent is reported as missing.
CREATE OR REPLACE FUNCTION rc.check_parent(_parent text, _user_id text, OUT reply text, OUT detail text)
LANGUAGE plpgsql AS $$
BEGIN
    SELECT status INTO detail FROM rc.runs
        WHERE run_id = _parent AND kind = 'run' AND (_user_id IS NULL OR user_id = _user_id) FOR SHARE;
    IF NOT FOUND THEN
        reply := 'no parent';
    ELSIF detail NOT IN ('pending', 'running', 'success') THEN
        reply := 'parent ended';
    END IF;
END $$;

-- By strategy: refuse, join the queue, or decide what is in flight. `holds`: the run takes the thread. Delayed
-- runs whose time has come count as queued, and join the queue unless the run is refused. Unless it is refused
-- the worker is live, and stays so until the end: it is locked last, when no other lock can be waited for.
CREATE OR REPLACE FUNCTION rc.make_room(
    _call rc.admission, _now bigint,
    OUT reply text, OUT detail text, OUT holds boolean, OUT related json
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_first text;
    v_runs text[];
    v_held boolean;
    v_blocked boolean;
    v_waiting bigint;
    v_due boolean;
    v_delayed boolean := _call.delay_ms IS NOT NULL;
    -- What it does to the runs in flight; NULL = it ends none.
    v_action text := CASE _call.multitask_strategy WHEN 'interrupt' THEN 'interrupt' WHEN 'rollback' THEN 'rollback' END;
    v_replaces boolean := v_action IS NOT NULL;
BEGIN
    SELECT (array_agg(run_id))[1], array_agg(run_id) FILTER (WHERE kind = 'run'),
           bool_or(holds_thread), bool_or(not_before IS NULL OR not_before <= _now),
           count(*) FILTER (WHERE status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL
                            AND (home_epoch IS NOT NULL OR portable)),
           bool_or(not_before <= _now)
        INTO v_first, v_runs, v_held, v_blocked, v_waiting, v_due
        FROM (SELECT run_id, kind, status, holds_thread, owner_epoch, home_epoch, portable, not_before FROM rc.runs
              WHERE thread_id = _call.thread_id AND (holds_thread OR status IN ('pending', 'running'))
              ORDER BY holds_thread DESC, not_before IS NOT NULL AND not_before > _now, not_before IS NOT NULL,
                       CASE WHEN not_before <= _now THEN not_before END, seq) in_flight;
    IF v_first IS NULL AND NOT v_delayed AND _call.parent_run_id IS NULL OR _call.beside THEN
        holds := NOT COALESCE(v_blocked, false);
        IF rc.lock_worker(_call.epoch) IS DISTINCT FROM 'live' THEN
            reply := 'epoch dead';
        END IF;
        RETURN;
    ELSIF v_first IS NOT NULL AND _call.multitask_strategy = 'reject' AND _call.parent_run_id IS NULL THEN
        reply := 'conflict';
        detail := v_first;
        RETURN;
    END IF;
    IF v_replaces AND v_runs IS NOT NULL THEN
        PERFORM rc.lock_family(v_runs, _call.parent_run_id);
    END IF;
    IF _call.parent_run_id IS NOT NULL THEN
        SELECT c.reply, c.detail INTO reply, detail FROM rc.check_parent(_call.parent_run_id, _call.user_id) c;
        IF reply IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;
    IF v_first IS NOT NULL AND _call.multitask_strategy = 'reject' THEN
        reply := 'conflict';
        detail := v_first;
        RETURN;
    END IF;
    holds := NOT v_delayed
        AND NOT COALESCE(CASE WHEN v_replaces THEN v_held ELSE v_blocked END, false);
    IF NOT holds THEN
        IF NOT v_replaces AND v_waiting >= _call.per_thread THEN
            reply := 'queue full';
            detail := 'thread';
            RETURN;
        ELSIF _call.per_user IS NOT NULL AND _call.user_id IS NOT NULL THEN
            PERFORM pg_advisory_xact_lock('rc.transitions'::regclass::oid::int4, hashtext(_call.user_id));
            IF (SELECT count(*) FROM (
                    SELECT FROM rc.runs
                    WHERE status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL
                      AND (home_epoch IS NOT NULL OR portable) AND user_id = _call.user_id
                      AND (NOT v_replaces OR thread_id <> _call.thread_id) LIMIT _call.per_user) its) >= _call.per_user THEN
                reply := 'queue full';
                detail := 'user';
                RETURN;
            END IF;
        END IF;
    END IF;
    IF rc.lock_worker(_call.epoch) IS DISTINCT FROM 'live' THEN
        reply := 'epoch dead';
        RETURN;
    END IF;
    IF v_due THEN
        PERFORM rc.queue_due(_call.thread_id, _now);
    END IF;
    IF v_replaces AND v_runs IS NOT NULL THEN
        related := rc.supersede(v_runs, v_action, _call.run_id, _call.user_id, _now);
    END IF;
END $$;

-- Decide all of these, whose families are locked, in favour of run `_by`, one after another: a run may be the child of
-- one before it. Returns an array of the decisions: of each run its standing, and its children's.
CREATE OR REPLACE FUNCTION rc.supersede(_run_ids text[], _action text, _by text, _actor text, _now bigint)
RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    v_answers json[] := '{}';
    v_call rc.deciding;
    v_decided record;
BEGIN
    v_call.status := 'interrupted';
    v_call.action := _action;
    v_call.cause := 'superseded';
    v_call.reason := 'superseded by run ' || _by;
    v_call.actor := _actor;
    v_call.while_waiting := false;
    v_call.now := _now;
    FOREACH v_call.run_id IN ARRAY _run_ids LOOP
        SELECT * INTO v_decided FROM rc.decide(ARRAY[v_call], true);
        v_answers := v_answers || to_json(v_decided);
    END LOOP;
    RETURN array_to_json(v_answers);
END $$;
