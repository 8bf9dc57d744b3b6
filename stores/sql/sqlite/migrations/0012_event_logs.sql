-- Event logs: what runs have emitted, for a while. Where Redis keeps them, both tables stay empty.

-- One row for each log: its newest event, its size, and who looks at it. The tables know of no foreign key: an append
-- must not read what it does not need.
CREATE TABLE event_logs (
    run_id         TEXT PRIMARY KEY NOT NULL,
    fence          INTEGER NOT NULL,  -- of the newest event; with number = 0 there is none
    number         INTEGER NOT NULL,
    bytes          INTEGER NOT NULL,  -- of JSON
    expires_at     INTEGER NOT NULL,
    followed_until INTEGER NOT NULL   -- by a worker that is not the run's own
) STRICT, WITHOUT ROWID;

CREATE INDEX event_logs_expiry ON event_logs (expires_at, run_id);

CREATE TABLE run_events (
    run_id TEXT NOT NULL,
    fence  INTEGER NOT NULL,
    number INTEGER NOT NULL,
    mode   TEXT NOT NULL,
    json   TEXT NOT NULL,
    PRIMARY KEY (run_id, fence, number)
) STRICT, WITHOUT ROWID;

-- A trigger, because a run is removed in many ways, also by workers of the last release.
CREATE TRIGGER runs_remove_events AFTER DELETE ON runs
BEGIN
    DELETE FROM run_events WHERE run_id = OLD.run_id;
    DELETE FROM event_logs WHERE run_id = OLD.run_id;
END;
