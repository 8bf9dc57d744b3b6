-- What runs emitted, for a while. Both tables stay empty where Redis keeps the logs.

-- One row per log: its newest event, its size, and until when a follower reads it.
CREATE TABLE rc.event_logs (
    run_id         text COLLATE "C" PRIMARY KEY,
    fence          bigint NOT NULL,  -- of the newest event
    number         bigint NOT NULL,  -- of the newest event within its fence; 0 = there is none
    bytes          bigint NOT NULL,  -- of JSON
    expires_at     bigint NOT NULL,
    followed_until bigint NOT NULL   -- by a worker that does not own the run
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

-- A run is removed in many ways; its events go with it in all of them.
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
