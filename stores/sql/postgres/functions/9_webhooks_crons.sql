-- Webhooks: written by `admit`, made due by the trigger on runs, delivered under a lease.

-- Due webhooks, oldest first, or where `_per_user` is not null as users take turns: no other worker claims them for
-- `_lease` us. `_held`: how many the worker has of each of `_users`. One row without a run id = the worker is dead.
CREATE OR REPLACE FUNCTION rc.claim_webhooks(
    _epoch bigint, _lease bigint, _limit bigint, _per_user bigint, _users text[], _held bigint[], _now bigint
) RETURNS TABLE (
    run_id text, thread_id text, user_id text, attempt bigint, url text, run text, metadata text, kwargs text,
    vals text, interrupts text
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_state text;
    v_now bigint;
    v_due text[];
BEGIN
    v_state := rc.lock_worker(_epoch);
    IF v_state IS NULL OR v_state = 'dead' THEN
        RETURN NEXT;
        RETURN;
    END IF;
    v_now := rc.clock(_now);
    IF _per_user IS NULL THEN
        v_due := ARRAY(SELECT w.run_id FROM rc.webhooks w WHERE state = 'due' AND next_at <= v_now
                       ORDER BY next_at, w.run_id LIMIT _limit FOR UPDATE SKIP LOCKED);
    ELSE
        v_due := rc.webhooks_in_turn(_limit, _per_user, _users, _held, v_now);
    END IF;
    RETURN QUERY UPDATE rc.webhooks w SET attempts = attempts + 1, claimed_by = _epoch, next_at = v_now + _lease
        WHERE w.run_id = ANY (v_due)
        RETURNING w.run_id, w.thread_id, w.user_id, w.attempts, w.url, w.run, w.metadata, w.kwargs, w."values",
            w.interrupts;
END $$;

-- Due ones, locked: of users in the order of how many the worker has of each, of each the oldest, and of none more than
-- `_per_user`. What has no user is bound by the limit alone. From user to user through the index, so that the number of
-- due webhooks of one user costs nothing; and of no more users than there are places, for the first of any other user
-- comes after all of theirs.
CREATE OR REPLACE FUNCTION rc.webhooks_in_turn(
    _limit bigint, _per_user bigint, _users text[], _held bigint[], _now bigint
) RETURNS text[] LANGUAGE sql AS $$
    WITH RECURSIVE users (user_id) AS (
        (SELECT user_id FROM rc.webhooks WHERE state = 'due' AND user_id IS NOT NULL ORDER BY user_id LIMIT 1)
        UNION ALL
        SELECT (SELECT w.user_id FROM rc.webhooks w WHERE state = 'due' AND w.user_id > u.user_id
                ORDER BY w.user_id LIMIT 1)
        FROM users u WHERE u.user_id IS NOT NULL
    ), asking AS (
        SELECT u.user_id, COALESCE(h.number, 0) AS held
        FROM users u
        LEFT JOIN unnest(_users, _held) h (user_id, number) ON h.user_id = u.user_id
        CROSS JOIN LATERAL (
            SELECT next_at, run_id FROM rc.webhooks w
            WHERE state = 'due' AND w.user_id = u.user_id AND next_at <= _now
            ORDER BY next_at, run_id LIMIT 1
        ) oldest
        WHERE COALESCE(h.number, 0) < _per_user
        ORDER BY held, oldest.next_at, oldest.run_id LIMIT _limit
    ), candidates AS (
        SELECT its.run_id, its.next_at, a.held + its.place AS place
        FROM asking a CROSS JOIN LATERAL (
            SELECT l.run_id, l.next_at, row_number() OVER (ORDER BY l.next_at, l.run_id) AS place
            FROM (SELECT w.run_id, w.next_at FROM rc.webhooks w
                  WHERE state = 'due' AND w.user_id = a.user_id AND next_at <= _now
                  ORDER BY next_at, run_id LIMIT _per_user - a.held FOR UPDATE SKIP LOCKED) l
        ) its
        UNION ALL
        SELECT l.run_id, l.next_at, row_number() OVER (ORDER BY l.next_at, l.run_id)
        FROM (SELECT run_id, next_at FROM rc.webhooks WHERE state = 'due' AND user_id IS NULL AND next_at <= _now
              ORDER BY next_at, run_id LIMIT _limit FOR UPDATE SKIP LOCKED) l
    )
    SELECT ARRAY(SELECT run_id FROM candidates ORDER BY place, next_at, run_id LIMIT _limit)
$$;

-- How an attempt ended; 'postponed': no attempt was made, none is counted, and the result of the last one stays. A
-- delivered webhook drops its large columns; a dead one keeps them, to be sent again.
-- False = another attempt has begun meanwhile: nothing is written.
CREATE OR REPLACE FUNCTION rc.report_webhook(
    _run_id text, _attempt bigint, _state text, _status_code bigint, _error text, _retry_in bigint, _now bigint
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_now bigint := rc.clock(_now);
    v_postponed boolean := _state = 'postponed';
BEGIN
    IF v_postponed THEN
        _state := 'due';
    END IF;
    UPDATE rc.webhooks SET state = _state, attempts = attempts - v_postponed::int,
        status_code = CASE WHEN v_postponed THEN status_code ELSE _status_code END,
        error = CASE WHEN v_postponed THEN error ELSE _error END,
        next_at = CASE WHEN _state = 'due' THEN v_now + _retry_in END,
        ended_at = CASE WHEN _state <> 'due' THEN v_now END,
        kwargs = CASE WHEN _state <> 'delivered' THEN kwargs END,
        "values" = CASE WHEN _state <> 'delivered' THEN "values" END
    WHERE run_id = _run_id AND state = 'due' AND attempts = _attempt;
    RETURN FOUND;
END $$;

-- Dead webhooks (null: all of them) become due again, with all their attempts; returns their runs. Those that were
-- stopped before their run ended are left out: they have nothing to send.
CREATE OR REPLACE FUNCTION rc.revive_webhooks(_run_ids text[], _user_id text, _now bigint) RETURNS SETOF text
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY UPDATE rc.webhooks SET state = 'due', attempts = 0, next_at = rc.clock(_now), ended_at = NULL
        WHERE state = 'dead' AND due_at IS NOT NULL AND (_user_id IS NULL OR user_id = _user_id)
          AND (_run_ids IS NULL OR run_id = ANY (_run_ids))
        RETURNING run_id;
END $$;

-- Waiting and due webhooks (null: all of them) become dead; returns their runs.
CREATE OR REPLACE FUNCTION rc.stop_webhooks(_run_ids text[], _user_id text, _error text, _now bigint)
RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    v_pending text[];
BEGIN
    v_pending := ARRAY(
        SELECT run_id FROM rc.webhooks
        WHERE state IN ('waiting', 'due') AND (_user_id IS NULL OR user_id = _user_id)
          AND (_run_ids IS NULL OR run_id = ANY (_run_ids))
        ORDER BY run_id FOR UPDATE);
    RETURN QUERY UPDATE rc.webhooks SET state = 'dead', error = _error, next_at = NULL, ended_at = rc.clock(_now)
        WHERE run_id = ANY (v_pending) RETURNING run_id;
END $$;

-- Prune delivered and dead webhooks, whether or not their runs still exist.
CREATE OR REPLACE FUNCTION rc.prune_webhooks(_age bigint, _limit bigint, _dry boolean, _now bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_gone text[];
BEGIN
    v_gone := ARRAY(
        SELECT run_id FROM rc.webhooks WHERE ended_at IS NOT NULL AND ended_at <= rc.clock(_now) - _age
        ORDER BY ended_at, run_id LIMIT CASE WHEN _dry THEN NULL ELSE _limit END);
    IF NOT _dry THEN
        DELETE FROM rc.webhooks WHERE run_id = ANY (v_gone);
    END IF;
    RETURN cardinality(v_gone);
END $$;

-- Crons: the program computes their moments; these functions compare them with the clock.

-- May the cron name the thread? It belongs to this user, or does not exist and need not. It is locked until the end.
CREATE OR REPLACE FUNCTION rc.may_name_thread(_thread_id text, _user_id text, _must_exist boolean) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_owner text;
BEGIN
    IF _thread_id IS NULL THEN
        RETURN true;
    END IF;
    SELECT user_id INTO v_owner FROM rc.threads WHERE thread_id = _thread_id FOR KEY SHARE;
    IF NOT FOUND THEN
        RETURN NOT _must_exist;
    END IF;
    RETURN _user_id IS NULL OR v_owner IS NOT DISTINCT FROM _user_id;
END $$;

-- The cron as it is written; no row = the thread does not exist for this user; a row of nulls = its user has `_limit`
-- crons already. A repeated call with the same id returns the same cron.
CREATE OR REPLACE FUNCTION rc.create_cron(
    _cron_id text, _user_id text, _assistant_id text, _thread_id text, _schedule text, _timezone text,
    _enabled boolean, _end_at bigint, _on_run_completed text, _payload text, _metadata text, _next_at bigint,
    _must_exist boolean, _limit bigint, _now bigint
) RETURNS SETOF rc.crons LANGUAGE plpgsql AS $$
DECLARE
    v_now bigint;
BEGIN
    IF NOT rc.may_name_thread(_thread_id, _user_id, _must_exist) THEN
        RETURN;
    END IF;
    IF _limit IS NOT NULL AND _user_id IS NOT NULL THEN  -- serialised: the next call counts what this one writes
        PERFORM pg_advisory_xact_lock('rc.crons'::regclass::oid::int4, hashtext(_user_id));
        IF (SELECT count(*) FROM (SELECT FROM rc.crons WHERE user_id = _user_id LIMIT _limit) its) >= _limit
           AND NOT EXISTS (SELECT FROM rc.crons WHERE cron_id = _cron_id) THEN
            RETURN QUERY SELECT (NULL::rc.crons).*;
            RETURN;
        END IF;
    END IF;
    v_now := rc.clock(_now);
    RETURN QUERY INSERT INTO rc.crons (cron_id, user_id, assistant_id, thread_id, schedule, timezone, enabled, end_at,
        on_run_completed, payload, metadata, next_at, created_at, updated_at)
    VALUES (_cron_id, _user_id, _assistant_id, _thread_id, _schedule, _timezone, _enabled, _end_at,
        _on_run_completed, _payload, _metadata, _next_at, v_now, v_now)
    ON CONFLICT (cron_id) DO NOTHING RETURNING *;
    IF NOT FOUND THEN
        RETURN QUERY SELECT * FROM rc.crons WHERE cron_id = _cron_id
            AND (user_id, assistant_id, thread_id, schedule, timezone, end_at, on_run_completed, payload, metadata)
                IS NOT DISTINCT FROM (_user_id, _assistant_id, _thread_id, _schedule, _timezone, _end_at,
                                      _on_run_completed, _payload, _metadata);
        IF NOT FOUND THEN
            RAISE unique_violation USING MESSAGE = 'another cron has this id';
        END IF;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION rc.replace_cron(
    _cron_id text, _user_id text, _assistant_id text, _thread_id text, _schedule text, _timezone text,
    _enabled boolean, _end_at bigint, _on_run_completed text, _payload text, _metadata text, _next_at bigint,
    _version bigint, _scope text, _now bigint
) RETURNS SETOF rc.crons LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY UPDATE rc.crons SET user_id = _user_id, assistant_id = _assistant_id, thread_id = _thread_id,
        schedule = _schedule, timezone = _timezone, enabled = _enabled, end_at = _end_at,
        on_run_completed = _on_run_completed, payload = _payload, metadata = _metadata, next_at = _next_at,
        updated_at = rc.clock(_now), version = version + 1
    WHERE cron_id = _cron_id AND version = _version AND (_scope IS NULL OR user_id = _scope) RETURNING *;
END $$;

-- As create_cron, which workers without the column call.
CREATE OR REPLACE FUNCTION rc.create_cron_as(
    _cron_id text, _user_id text, _assistant_id text, _thread_id text, _schedule text, _timezone text,
    _enabled boolean, _end_at bigint, _on_run_completed text, _payload text, _metadata text, _next_at bigint,
    _user_document text, _must_exist boolean, _limit bigint, _now bigint
) RETURNS SETOF rc.crons LANGUAGE plpgsql AS $$
DECLARE
    v_cron rc.crons;
BEGIN
    SELECT * INTO v_cron FROM rc.create_cron(
        _cron_id, _user_id, _assistant_id, _thread_id, _schedule, _timezone, _enabled, _end_at, _on_run_completed,
        _payload, _metadata, _next_at, _must_exist, _limit, _now);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF v_cron.user_document IS DISTINCT FROM _user_document THEN
        UPDATE rc.crons SET user_document = _user_document WHERE cron_id = v_cron.cron_id RETURNING * INTO v_cron;
    END IF;
    RETURN NEXT v_cron;
END $$;

-- As replace_cron.
CREATE OR REPLACE FUNCTION rc.replace_cron_as(
    _cron_id text, _user_id text, _assistant_id text, _thread_id text, _schedule text, _timezone text,
    _enabled boolean, _end_at bigint, _on_run_completed text, _payload text, _metadata text, _next_at bigint,
    _user_document text, _version bigint, _scope text, _now bigint
) RETURNS SETOF rc.crons LANGUAGE plpgsql AS $$
BEGIN
    UPDATE rc.crons SET user_document = _user_document
    WHERE cron_id = _cron_id AND version = _version AND (_scope IS NULL OR user_id = _scope);
    RETURN QUERY SELECT * FROM rc.replace_cron(
        _cron_id, _user_id, _assistant_id, _thread_id, _schedule, _timezone, _enabled, _end_at, _on_run_completed,
        _payload, _metadata, _next_at, _version, _scope, _now);
END $$;

CREATE OR REPLACE FUNCTION rc.delete_cron(_cron_id text, _user_id text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM rc.crons WHERE cron_id = _cron_id AND (_user_id IS NULL OR user_id = _user_id);
    RETURN FOUND;
END $$;

-- Is the cron (still) due at that moment? Its row is locked then, so that no other transaction fires it.
CREATE OR REPLACE FUNCTION rc.cron_due(_cron_id text, _at bigint, _now bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM rc.crons WHERE cron_id = _cron_id AND next_at = _at AND next_at <= _now AND enabled FOR UPDATE;
    RETURN FOUND;
END $$;

-- Move the cron past this firing.
CREATE OR REPLACE FUNCTION rc.advance_cron(_cron_id text, _at bigint, _next bigint, _run_id text, _error text)
RETURNS void LANGUAGE sql AS $$
    UPDATE rc.crons SET next_at = _next, last_at = _at, last_run_id = COALESCE(_run_id, last_run_id),
        last_error = _error, version = version + 1
    WHERE cron_id = _cron_id
$$;

CREATE OR REPLACE FUNCTION rc.skip_cron(_cron_id text, _at bigint, _next bigint, _error text, _now bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF NOT rc.cron_due(_cron_id, _at, rc.clock(_now)) THEN
        RETURN false;
    END IF;
    PERFORM rc.advance_cron(_cron_id, _at, _next, NULL, _error);
    RETURN true;
END $$;
