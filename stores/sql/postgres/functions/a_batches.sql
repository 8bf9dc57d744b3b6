-- The life without a conflict, for many runs at once: what admit, start and finish do, over arrays of their
-- parameters. For each statement PostgreSQL opens every index of runs and compiles what each of them is about, so that
-- a statement for a batch costs little more than one for a run: a third of a function for each of its calls.
--
-- They wait for no lock (SKIP LOCKED), and answer for what they have made, by its place in the arrays. A call
-- that is not plain (somebody is in the way, a repetition, another user) has no answer here: it is made alone,
-- by the function that knows all cases.
--
-- Plans are fixed: by primary keys, one row after another, however small the table was when one was made.

-- The epochs among these whose worker is in one of these states; it stays there until the end. One whose state somebody
-- is about to change is left out.
CREATE OR REPLACE FUNCTION rc.lock_workers(_epochs bigint[], VARIADIC _states text[]) RETURNS bigint[]
LANGUAGE sql AS $$
    SELECT ARRAY(SELECT epoch FROM (SELECT DISTINCT unnest(_epochs) AS epoch ORDER BY 1) named
                 WHERE CASE WHEN pg_try_advisory_xact_lock_shared('rc.workers'::regclass::oid::int4, epoch::int4)
                            THEN rc.lock_worker(epoch) = ANY (_states) END)
$$;

-- Take a thread that nobody has, or be refused one that somebody has. Of several for one thread the first has
-- it. What has no parameter here (a parent, a delay) is not for many at once; a key that was used before is left out.
CREATE OR REPLACE FUNCTION rc.admit_many(
    _epoch bigint[], _beside boolean[], _run_id text[], _kind text[], _thread_id text[], _user_id text[],
    _assistant_id text[], _strategy text[], _on_disconnect text[], _portable boolean[], _metadata text[],
    _kwargs text[], _model_name text[], _created_at text[], _created_us bigint[], _timeout_ms bigint[],
    _idle_timeout_ms bigint[], _must_exist boolean[], _adopt boolean[], _temporary_ms bigint[], _webhook text[],
    _now bigint[], _key text[], _request_hash text[], _stamp text[]
) RETURNS TABLE (
    place bigint, said text, about text, holds boolean, fence bigint, seq bigint, temporary boolean, more json
) LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_live bigint[] := rc.lock_workers(_epoch, 'live');
    -- Whoever else has one of the keys in hand makes his admission alone, or has made it.
    v_keys text[] := ARRAY(
        SELECT key FROM (SELECT DISTINCT unnest(_key) AS key) asked
        WHERE key IS NOT NULL AND pg_try_advisory_xact_lock('rc.runs'::regclass::oid::int4, hashtext(key))
    );
    v_there text[] := ARRAY(
        SELECT thread_id FROM rc.threads WHERE thread_id = ANY (_thread_id) FOR NO KEY UPDATE SKIP LOCKED
    );
    v_made text[];
    v_now bigint;
BEGIN
    WITH made AS (
        INSERT INTO rc.threads (thread_id, fence, next_seq, created_at, updated_at)
        SELECT thread_id, COALESCE((SELECT d.fence FROM rc.deleted_threads d WHERE d.thread_id = new.thread_id), 0), 0, 0, 0
        FROM (SELECT DISTINCT thread_id FROM unnest(_thread_id, _must_exist) asked (thread_id, must_exist)
              WHERE NOT must_exist AND thread_id <> ALL (v_there)) new
        WHERE pg_try_advisory_xact_lock('rc.threads'::regclass::oid::int4, hashtext(thread_id))
        ON CONFLICT DO NOTHING
        RETURNING thread_id
    ) SELECT COALESCE(array_agg(thread_id), '{}') INTO v_made FROM made;
    v_now := rc.clock(_now[1]);
    RETURN QUERY
    WITH plain AS MATERIALIZED (
        SELECT asked.*, t.user_id AS owner, asked.thread_id = ANY (v_made) AS fresh,
               row_number() OVER (PARTITION BY asked.thread_id ORDER BY asked.place) AS nth,
               EXISTS (SELECT FROM rc.runs r WHERE r.run_id = asked.run_id)
               OR EXISTS (SELECT FROM rc.webhooks w WHERE w.run_id = asked.run_id)
               OR key IS NOT NULL AND (
                   key <> ALL (v_keys) OR asked.place > array_position(_key, key)
                   OR EXISTS (SELECT FROM rc.runs r WHERE r.idempotency_key = key)) AS known
        FROM unnest(_epoch, _beside, _run_id, _kind, _thread_id, _user_id, _assistant_id, _strategy, _on_disconnect,
                    _portable, _metadata, _kwargs, _model_name, _created_at, _created_us,
                    _timeout_ms, _idle_timeout_ms, _must_exist, _adopt, _temporary_ms, _webhook, _key, _request_hash, _stamp)
             WITH ORDINALITY asked (epoch, beside, run_id, kind, thread_id, user_id, assistant_id, strategy,
                    on_disconnect, portable, metadata, kwargs, model_name, created_at, created_us,
                    timeout_ms, idle_timeout_ms, must_exist, adopt, temporary_ms, webhook, key, request_hash, stamp, place)
        JOIN rc.threads t ON t.thread_id = asked.thread_id
        WHERE asked.thread_id = ANY (v_there || v_made) AND epoch = ANY (v_live)
          AND NOT (must_exist AND asked.thread_id = ANY (v_made))
          AND (beside OR asked.user_id IS NULL OR asked.user_id = t.user_id
               OR t.user_id IS NULL AND (adopt OR asked.thread_id = ANY (v_made)))
    ), placed AS (
        UPDATE rc.threads t SET user_id = COALESCE(t.user_id, plain.user_id),
            assistant_id = COALESCE(plain.assistant_id, t.assistant_id), metadata = rc.stamped(t.metadata, stamp),
            fence = t.fence + 1, next_seq = t.next_seq + 1, updated_at = v_now,
            created_at = CASE WHEN fresh THEN v_now ELSE t.created_at END,
            ttl_ms = CASE WHEN fresh THEN temporary_ms ELSE t.ttl_ms END,
            temporary = CASE WHEN fresh THEN temporary_ms IS NOT NULL ELSE t.temporary END
        FROM plain WHERE t.thread_id = plain.thread_id AND nth = 1 AND NOT known
          AND NOT EXISTS (SELECT FROM rc.runs r WHERE r.thread_id = plain.thread_id
                          AND (r.holds_thread OR r.status IN ('pending', 'running')))
        RETURNING place, t.thread_id, run_id, t.fence, t.next_seq AS seq, t.temporary
    ), born AS (
        INSERT INTO rc.runs (run_id, kind, thread_id, user_id, assistant_id, holds_thread, owner_epoch, fence, seq,
            portable, multitask_strategy, on_disconnect, metadata, kwargs, model_name, created_at,
            created_us, updated_at, timeout_ms, idle_timeout_ms, idempotency_key, request_hash)
        SELECT plain.run_id, kind, plain.thread_id, user_id, assistant_id, true, epoch, placed.fence, placed.seq,
            portable, strategy, on_disconnect, metadata, kwargs, model_name, created_at,
            created_us, v_now, timeout_ms, idle_timeout_ms, key, request_hash
        FROM plain JOIN placed ON placed.place = plain.place ORDER BY plain.place
    ), asked_for_word AS (
        INSERT INTO rc.webhooks (run_id, thread_id, user_id, url, created_at)
        SELECT plain.run_id, plain.thread_id, user_id, webhook, v_now
        FROM plain JOIN placed ON placed.place = plain.place WHERE webhook IS NOT NULL
    ), refused AS (
        SELECT plain.place, COALESCE(found.first, placed.run_id) AS about
        FROM plain
        LEFT JOIN placed ON placed.thread_id = plain.thread_id
        LEFT JOIN LATERAL (
            SELECT (array_agg(r.run_id ORDER BY r.holds_thread DESC, r.not_before IS NOT NULL, r.seq))[1] AS first,
                   bool_or(r.not_before <= v_now) AS due
            FROM rc.runs r
            WHERE r.thread_id = plain.thread_id AND (r.holds_thread OR r.status IN ('pending', 'running'))
        ) found ON true
        WHERE placed.place IS DISTINCT FROM plain.place AND NOT known AND NOT beside AND strategy = 'reject'
          AND (plain.user_id IS NULL OR plain.user_id = owner) AND NOT COALESCE(found.due, false)
    )
    SELECT placed.place, 'admitted', NULL, true, placed.fence, placed.seq, placed.temporary, NULL::json FROM placed
    UNION ALL
    SELECT refused.place, 'conflict', refused.about, NULL, NULL, NULL, NULL, NULL FROM refused
    WHERE refused.about IS NOT NULL;
    DELETE FROM rc.threads WHERE thread_id = ANY (v_made) AND next_seq = 0;
END $$;

-- pending -> running.
CREATE OR REPLACE FUNCTION rc.start_many(
    _run_id text[], _epoch bigint[], _fence bigint[], _ref text[], _saved boolean[], _saved_values text[],
    _saved_interrupts text[], _now bigint[]
) RETURNS TABLE (place bigint, said text, home bigint, vals text, stands rc.standing)
LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_alive bigint[] := rc.lock_workers(_epoch, 'live', 'draining');
    v_locked text[] := ARRAY(
        SELECT run_id FROM rc.runs WHERE run_id = ANY (_run_id) AND status = 'pending'
        FOR NO KEY UPDATE SKIP LOCKED
    );
    v_now bigint := rc.clock(_now[1]);
BEGIN
    RETURN QUERY
    UPDATE rc.runs r SET status = 'running', started_at = v_now, rollback_ref = asked.ref, saved = asked.saved,
        saved_values = asked.saved_values, saved_interrupts = asked.saved_interrupts, updated_at = v_now,
        deadline_at = v_now + timeout_ms * 1000
    FROM unnest(_run_id, _epoch, _fence, _ref, _saved, _saved_values, _saved_interrupts)
         WITH ORDINALITY asked (run_id, epoch, fence, ref, saved, saved_values, saved_interrupts, place)
    WHERE r.run_id = asked.run_id AND asked.run_id = ANY (v_locked) AND asked.epoch = ANY (v_alive)
      AND owner_epoch = asked.epoch AND r.fence = asked.fence AND settled_at IS NULL AND status = 'pending'
    RETURNING asked.place, 'started', home_epoch,
        (SELECT t."values" FROM rc.threads t WHERE t.thread_id = r.thread_id), NULL::rc.standing;
END $$;

-- Settle a success that nobody has decided otherwise, or only decide it (`_hold`). Of several for one run the first.
CREATE OR REPLACE FUNCTION rc.finish_many(
    _run_id text[], _thread_id text[], _epoch bigint[], _fence bigint[], _hold boolean[], _status text[],
    _error text[], _result text[], _values text[], _paused boolean[], _interrupts text[], _delivered_at bigint[],
    _stopped_at bigint[], _now bigint[]
) RETURNS TABLE (place bigint, said text, stands rc.standing, next_home bigint, children json)
LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    v_alive bigint[] := rc.lock_workers(_epoch, 'live', 'draining');
    v_locked text[] := ARRAY(
        SELECT r.run_id FROM unnest(_run_id, _thread_id) asked (run_id, thread_id)
        JOIN rc.runs r ON r.run_id = asked.run_id AND r.status IN ('pending', 'running')
        JOIN rc.threads t ON t.thread_id = asked.thread_id
        FOR NO KEY UPDATE OF r, t SKIP LOCKED
    );
    v_now bigint := rc.clock(_now[1]);
BEGIN
    RETURN QUERY
    UPDATE rc.runs r SET status = 'success', holds_thread = holds_thread AND asked.hold,
        settled_at = CASE WHEN NOT asked.hold THEN v_now END, ended_at = COALESCE(r.ended_at, v_now), updated_at = v_now,
        cancel_delivered_at = COALESCE(asked.delivered_at, cancel_delivered_at),
        stopped_at = COALESCE(asked.stopped_at, r.stopped_at), paused = asked.paused,
        interrupts = asked.interrupts, result = asked.result, error = asked.error,
        checkpointed = r.checkpointed OR asked.leaves,
        checkpoint_values = CASE WHEN asked.leaves AND asked."values" IS NOT NULL THEN
                CASE WHEN asked.result IS DISTINCT FROM asked."values" THEN asked."values" END
            WHEN r.checkpointed OR asked.leaves THEN COALESCE(
                (SELECT t."values" FROM rc.threads t WHERE t.thread_id = r.thread_id), 'null') END
    FROM (SELECT *, fence > 0 AND ("values" IS NOT NULL OR paused OR interrupts IS NOT NULL) AS leaves
          FROM unnest(_run_id, _epoch, _fence, _hold, _status, _error, _result, _values, _paused, _interrupts,
                      _delivered_at, _stopped_at)
               WITH ORDINALITY given (run_id, epoch, fence, hold, status, error, result, "values", paused, interrupts,
                                      delivered_at, stopped_at, place)) asked
    WHERE r.run_id = asked.run_id AND asked.place = array_position(_run_id, asked.run_id) AND asked.run_id = ANY (v_locked) AND asked.epoch = ANY (v_alive)
      AND asked.status = 'success' AND owner_epoch = asked.epoch AND r.fence = asked.fence AND settled_at IS NULL
      AND r.status IN ('pending', 'running')
    RETURNING asked.place, 'written',
        (r.run_id, r.thread_id, r.status, settled_at, owner_epoch, home_epoch, r.fence, cancel_action, cancel_cause,
         cancel_reason, cancel_actor, r.error)::rc.standing,
        rc.next_worker(r.thread_id), NULL::json;
    -- A run that these locked when it was open, and that has ended, has been ended here.
    UPDATE rc.threads t SET "values" = COALESCE(asked."values", t."values"), interrupts = asked.interrupts,
        state_updated_at = CASE WHEN asked."values" IS NOT NULL THEN v_now ELSE state_updated_at END, updated_at = v_now
    FROM unnest(_run_id, _thread_id, _fence, _values, _interrupts)
         WITH ORDINALITY asked (run_id, thread_id, fence, "values", interrupts, place)
    JOIN rc.runs r ON r.run_id = asked.run_id AND r.status = 'success' AND r.fence = asked.fence
    WHERE t.thread_id = asked.thread_id AND asked.place = array_position(_run_id, asked.run_id) AND asked.run_id = ANY (v_locked) AND asked.fence > 0
      AND (asked."values" IS NOT NULL OR asked.interrupts IS NOT NULL OR t.interrupts IS NOT NULL);
END $$;

-- Decide runs that have started nothing which is in flight; of several calls for one run the first that applies. Left
-- out: runs with children, open ones that somebody has locked, and calls that did not apply before the one that did:
-- what they would be answered is not there any more.
CREATE OR REPLACE FUNCTION rc.decide_many(
    _run_id text[], _status text[], _action text[], _cause text[], _reason text[], _actor text[], _error text[],
    _while_waiting boolean[], _home bigint[], _now bigint[]
) RETURNS TABLE (place bigint, won boolean, children json, stands rc.standing)
LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    -- FOR UPDATE: whoever admits a child holds its parent FOR SHARE, and nobody does from here on.
    v_locked text[] := ARRAY(
        SELECT run_id FROM rc.runs WHERE run_id = ANY (_run_id) AND status IN ('pending', 'running')
        FOR UPDATE SKIP LOCKED
    );
    v_parents text[] := ARRAY(
        SELECT DISTINCT parent_run_id FROM rc.runs
        WHERE parent_run_id = ANY (v_locked) AND parent_run_id IS NOT NULL AND status IN ('pending', 'running')
    );
    v_now bigint := rc.clock(_now[1]);
    v_won bigint[];
BEGIN
    WITH first AS MATERIALIZED (
        SELECT DISTINCT ON (asked.run_id) asked.*
        FROM unnest(_run_id, _status, _action, _cause, _reason, _actor, _error, _while_waiting, _home)
             WITH ORDINALITY asked (run_id, status, action, cause, reason, actor, error, while_waiting, home, place)
        JOIN rc.runs r ON r.run_id = asked.run_id
        WHERE asked.run_id = ANY (v_locked) AND asked.run_id <> ALL (v_parents)
          AND (NOT while_waiting OR (r.status = 'pending' AND NOT holds_thread AND owner_epoch IS NULL))
          AND (home IS NULL OR home_epoch = home)
        ORDER BY asked.run_id, asked.place
    ), decided AS (
        UPDATE rc.runs r SET status = first.status, cancel_action = first.action, cancel_cause = first.cause,
            cancel_reason = first.reason, cancel_actor = first.actor, cancel_requested_at = v_now,
            error = COALESCE(first.error, r.error), ended_at = v_now, updated_at = v_now,
            settled_at = CASE WHEN owner_epoch IS NULL THEN v_now END
        FROM first WHERE r.run_id = first.run_id AND r.status IN ('pending', 'running')
        RETURNING first.place
    ) SELECT COALESCE(array_agg(place), '{}') INTO v_won FROM decided;
    RETURN QUERY
    SELECT asked.place, asked.place = ANY (v_won), NULL::json,
        (r.run_id, r.thread_id, status, settled_at, owner_epoch, home_epoch, r.fence, cancel_action, cancel_cause,
         cancel_reason, cancel_actor, r.error)::rc.standing
    FROM unnest(_run_id) WITH ORDINALITY asked (run_id, place)
    LEFT JOIN rc.runs r ON r.run_id = asked.run_id
    WHERE asked.run_id <> ALL (v_parents)
      AND (r.run_id IS NULL OR status NOT IN ('pending', 'running') OR r.run_id = ANY (v_locked))
      AND NOT EXISTS (SELECT FROM unnest(v_won) later (place)
                      WHERE later.place > asked.place AND _run_id[later.place] = asked.run_id);
END $$;
