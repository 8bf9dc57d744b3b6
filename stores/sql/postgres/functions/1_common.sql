-- The transactions, one function for each. All of them are installed again (CREATE OR REPLACE) where the schema has
-- an older revision of them. Workers of the previous release call them meanwhile: a function with other parameters or
-- another result is added beside the old one.
--
-- Lock order. Every transaction takes its locks in this order, so that no two deadlock: idempotency key; the thread;
-- runs, by id (ids grow with time, so that a parent comes before its children); worker. No transaction locks two
-- threads. The worker comes last, so that no transaction that waits for a row holds the worker's lock: a change of the
-- worker's state (drain, fence_worker) would then wait for that row as well, and all other writes of the worker behind
-- that change.

-- admit, start, finish and decide take a batch: an array of calls. For each statement PostgreSQL opens every index of
-- runs and compiles the expressions of each, so that a statement for a batch costs little more than one for a run.
-- A batch waits for no lock (SKIP LOCKED) and answers, by its place in the array, each plain call: one whose rows are
-- not locked, that repeats no earlier call, and whose run has no children. A call that is left out has changed nothing;
-- the worker makes it again as a batch of one with `_waits`, which waits for locks, handles all cases, and always answers.
--
-- Plans of batches are fixed: by primary keys, one row after another, however small the table and however long the
-- array was when a plan was made. An index of runs in flight seems to be shorter still: by the statistics it has the few
-- entries of living rows, but it also has those of all dead rows that a long transaction keeps, and a plan that reads it
-- to its end reads them all for each run. Therefore COALESCE(status, ''), of which no partial index is known to hold the
-- rows, where a run is looked up by its id, and OFFSET 0 in EXISTS, which is then looked up for each row. The functions that a batch calls are plpgsql, which keeps its plans: a function in SQL
-- is planned again for each statement that calls it.

-- The store's clock, unless a test brings its own.
CREATE OR REPLACE FUNCTION rc.clock(_now bigint) RETURNS bigint LANGUAGE sql
RETURN COALESCE(_now, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);

CREATE OR REPLACE FUNCTION rc.lock_worker(_epoch bigint) RETURNS text LANGUAGE plpgsql AS $$
-- The worker's state, which stands until this transaction ends: a transaction that changes it takes `change_worker`.
-- Not FOR KEY SHARE: every write of a worker would write its row's header, and a list of all that hold it.
BEGIN
    PERFORM pg_advisory_xact_lock_shared('rc.workers'::regclass::oid::int4, _epoch::int4);
    RETURN (SELECT state FROM rc.workers WHERE epoch = _epoch);
END $$;

-- The state at this moment, for a refusal before any lock is taken.
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

-- The epochs among these whose worker is in one of these states; it stays there until the end. Without `_waits`, one
-- whose state another transaction is about to change is left out.
CREATE OR REPLACE FUNCTION rc.lock_workers(_epochs bigint[], _waits boolean, VARIADIC _states text[]) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    v_epoch bigint;
    v_locked bigint[] := '{}';
BEGIN
    FOR v_epoch IN SELECT DISTINCT unnest(_epochs) ORDER BY 1 LOOP
        IF _waits OR pg_try_advisory_xact_lock_shared('rc.workers'::regclass::oid::int4, v_epoch::int4) THEN
            IF rc.lock_worker(v_epoch) = ANY (_states) THEN
                v_locked := v_locked || v_epoch;
            END IF;
        END IF;
    END LOOP;
    RETURN v_locked;
END $$;

-- The runs among these that are locked until the end: without `_waits`, those that no other transaction has locked.
CREATE OR REPLACE FUNCTION rc.lock_runs(_run_ids text[], _waits boolean) RETURNS text[] LANGUAGE plpgsql AS $$
BEGIN
    IF _waits THEN
        PERFORM FROM rc.runs WHERE run_id = ANY (_run_ids) ORDER BY run_id FOR NO KEY UPDATE;
        RETURN _run_ids;
    END IF;
    RETURN ARRAY(SELECT run_id FROM rc.runs WHERE run_id = ANY (_run_ids) FOR NO KEY UPDATE SKIP LOCKED);
END $$;
