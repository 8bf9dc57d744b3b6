-- Projections: changes of runs, queued by triggers, delivered by one worker at a time under a claim.

-- As the owner of the tables, which workers are not: the triggers fire where there is a projection. Waits for the writes
-- under way, so that each change is queued or of a run that the projection is filled with. `_least`: later changes have
-- greater numbers, also in a store that was copied or restored.
CREATE OR REPLACE FUNCTION rc.switch_projecting(_least bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    v_wanted boolean := EXISTS (SELECT FROM rc.projections);
    v_enabled boolean := (SELECT tgenabled <> 'D' FROM pg_trigger
                          WHERE tgrelid = 'rc.transitions'::regclass AND tgname = 'transitions_projected');
    v_numbers text := pg_get_serial_sequence('rc.run_changes', 'seq');
BEGIN
    IF v_wanted AND COALESCE(pg_sequence_last_value(v_numbers), 0) < _least THEN
        PERFORM setval(v_numbers, _least);
    END IF;
    IF v_wanted AND NOT v_enabled THEN
        ALTER TABLE rc.runs ENABLE TRIGGER runs_amended;
        ALTER TABLE rc.runs ENABLE TRIGGER runs_deleted;
        ALTER TABLE rc.transitions ENABLE TRIGGER transitions_projected;
    ELSIF v_enabled AND NOT v_wanted THEN
        ALTER TABLE rc.runs DISABLE TRIGGER runs_amended;
        ALTER TABLE rc.runs DISABLE TRIGGER runs_deleted;
        ALTER TABLE rc.transitions DISABLE TRIGGER transitions_projected;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION rc.add_projection(_name text, _now bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_now bigint := rc.clock(_now);
BEGIN
    PERFORM pg_advisory_xact_lock('rc.projections'::regclass::oid::int4, 0);
    INSERT INTO rc.projections (name, filled_to, created_at)
        VALUES (_name, (SELECT '' FROM rc.runs LIMIT 1), v_now) ON CONFLICT DO NOTHING;
    PERFORM rc.switch_projecting(v_now);
END $$;

CREATE OR REPLACE FUNCTION rc.remove_projection(_name text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_removed boolean;
BEGIN
    PERFORM pg_advisory_xact_lock('rc.projections'::regclass::oid::int4, 0);
    DELETE FROM rc.projections WHERE name = _name;
    v_removed := FOUND;
    PERFORM rc.switch_projecting(0);
    DELETE FROM rc.run_changes WHERE projection = _name;
    RETURN v_removed;
END $$;

-- The oldest changes, with the rows of their runs as they are now; for `_lease` us no other worker gets any. `_page`: so
-- many of the runs that are older than the projection are queued first. The first row has no change: its reply is 'dead'
-- (the worker), 'taken' (another worker delivers, or the projection is unknown), or 'claimed'.
CREATE OR REPLACE FUNCTION rc.claim_changes(
    _name text, _epoch bigint, _lease bigint, _limit bigint, _page bigint, _now bigint
) RETURNS TABLE (
    reply text, seq bigint, run_id text, thread_id text, at bigint, what text, attempts bigint, run rc.runs
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now bigint := rc.clock(_now);
    v_state text;
    v_filled text;
BEGIN
    v_state := rc.lock_worker(_epoch);
    IF v_state IS NULL OR v_state = 'dead' THEN
        reply := 'dead';
        RETURN NEXT;
        RETURN;
    END IF;
    SELECT filled_to INTO v_filled FROM rc.projections p WHERE name = _name
        AND (claimed_by IS NULL OR claimed_by = _epoch OR claimed_until <= v_now
             OR NOT EXISTS (SELECT FROM rc.workers w WHERE w.epoch = claimed_by AND w.state <> 'dead'))
        FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        reply := 'taken';
        RETURN NEXT;
        RETURN;
    END IF;
    IF v_filled IS NOT NULL THEN
        v_filled := rc.fill_projection(_name, v_filled, _page, v_now);
    END IF;
    UPDATE rc.projections SET claimed_by = _epoch, claimed_until = v_now + _lease, filled_to = v_filled
        WHERE name = _name;
    reply := 'claimed';
    RETURN NEXT;
    -- One statement, so that no row is older than its change.
    RETURN QUERY SELECT NULL::text, c.seq, c.run_id, c.thread_id, c.at, c.what, c.attempts, r
        FROM (SELECT * FROM rc.run_changes WHERE projection = _name AND thread_id NOT IN (
                  SELECT f.thread_id FROM rc.run_changes f WHERE f.projection = _name AND f.next_at > v_now)
              ORDER BY seq LIMIT _limit) c
        LEFT JOIN rc.runs r ON r.run_id = c.run_id ORDER BY c.seq;
END $$;

-- Queues a page of the runs after `_after`; returns the last of them, or NULL after the last page.
CREATE OR REPLACE FUNCTION rc.fill_projection(_name text, _after text, _page bigint, _now bigint) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    v_runs text[] := ARRAY(SELECT run_id FROM rc.runs WHERE run_id > _after ORDER BY run_id LIMIT _page);
BEGIN
    INSERT INTO rc.run_changes (projection, run_id, thread_id, at, what)
        SELECT _name, run_id, thread_id, _now, 'existing' FROM rc.runs WHERE run_id = ANY (v_runs) ORDER BY run_id;
    RETURN CASE WHEN cardinality(v_runs) = _page THEN v_runs[_page] END;
END $$;

-- How the delivery of claimed changes went; ends the claim. Writes nothing where another worker has it.
CREATE OR REPLACE FUNCTION rc.report_changes(
    _name text, _epoch bigint, _delivered bigint[], _failed bigint[], _errors text[], _retry_in bigint[], _now bigint
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE rc.projections SET claimed_by = NULL, claimed_until = NULL WHERE name = _name AND claimed_by = _epoch;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    DELETE FROM rc.run_changes WHERE projection = _name AND seq = ANY (_delivered);
    UPDATE rc.run_changes c SET attempts = c.attempts + 1, next_at = rc.clock(_now) + f.retry_in, error = f.error
        FROM unnest(_failed, _errors, _retry_in) f (seq, error, retry_in)
        WHERE c.projection = _name AND c.seq = f.seq;
END $$;
