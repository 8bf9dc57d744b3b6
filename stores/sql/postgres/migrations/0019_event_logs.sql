-- Event logs: what runs have emitted, for a while. Where Redis keeps them, both tables stay empty.

-- One row for each log: its newest event, its size, and who looks at it. The tables know of no foreign key: an append
-- must not lock the rows of runs.
CREATE TABLE rc.event_logs (
    run_id         text COLLATE "C" PRIMARY KEY,
    fence          bigint NOT NULL,  -- of the newest event; with number = 0 there is none
    number         bigint NOT NULL,
    bytes          bigint NOT NULL,  -- of JSON
    expires_at     bigint NOT NULL,
    followed_until bigint NOT NULL   -- by a worker that is not the run's own
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX event_logs_expiry ON rc.event_logs (expires_at, run_id);

CREATE TABLE rc.run_events (
    run_id text COLLATE "C" NOT NULL,
    fence  bigint NOT NULL,
    number bigint NOT NULL,
    mode   text NOT NULL,
    json   text NOT NULL,
    PRIMARY KEY (run_id, fence, number)
) WITH (autovacuum_vacuum_scale_factor = 0.02);

-- A trigger, because a run is removed in many ways, also by workers of the last release.
CREATE FUNCTION rc.remove_events() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_gone text[] := ARRAY(SELECT run_id FROM gone);
BEGIN
    DELETE FROM rc.run_events WHERE run_id = ANY (v_gone);
    DELETE FROM rc.event_logs WHERE run_id = ANY (v_gone);
    RETURN NULL;
END $$;

CREATE TRIGGER runs_remove_events AFTER DELETE ON rc.runs REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION rc.remove_events();
