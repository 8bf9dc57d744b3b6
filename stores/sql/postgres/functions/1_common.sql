-- The transactions, one function for each. They are all made again (CREATE OR REPLACE) where the schema has an
-- older revision of them. Workers of the last release call them meanwhile: a function with other parameters or
-- another result is a new one beside the old.
--
-- What they have in common. A transaction takes its locks in this order, so that no two wait
-- for each other: idempotency key; the thread; runs, by id (ids grow with time, so that a parent
-- comes before its children); worker. No transaction locks two threads. The worker comes last, so that nobody who
-- waits for a row holds it: whoever changes its state (drain, bury) would wait for that row as well, and all other
-- writes of the worker behind him.

-- The store's clock, unless a test brings its own.
CREATE OR REPLACE FUNCTION rc.clock(_now bigint) RETURNS bigint LANGUAGE sql
RETURN COALESCE(_now, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);

CREATE OR REPLACE FUNCTION rc.lock_worker(_epoch bigint) RETURNS text LANGUAGE plpgsql AS $$
-- The worker's state, which stands until this transaction ends: whoever changes it takes `change_worker`.
-- Not FOR KEY SHARE: every write of a worker would write its row's header, and a list of all that hold it.
BEGIN
    PERFORM pg_advisory_xact_lock_shared('rc.workers'::regclass::oid::int4, _epoch::int4);
    RETURN (SELECT state FROM rc.workers WHERE epoch = _epoch);
END $$;

-- As it is at this moment, for a refusal before any lock is taken.
CREATE OR REPLACE FUNCTION rc.worker_state(_epoch bigint) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT state FROM rc.workers WHERE epoch = _epoch
$$;

CREATE OR REPLACE FUNCTION rc.change_worker(_epoch bigint) RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock('rc.workers'::regclass::oid::int4, _epoch::int4)
$$;

CREATE OR REPLACE FUNCTION rc.stands(_run_id text) RETURNS rc.standing LANGUAGE sql STABLE AS $$
    SELECT (run_id, thread_id, status, settled_at, owner_epoch, home_epoch, fence,
            cancel_action, cancel_cause, cancel_reason, cancel_actor, error)::rc.standing
    FROM rc.runs WHERE run_id = _run_id
$$;
