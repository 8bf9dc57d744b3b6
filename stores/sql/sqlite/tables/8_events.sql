-- What runs emitted, for a while. Both tables stay empty where Redis keeps the logs.

-- One row per log: its newest event, its size, and until when a follower reads it.
CREATE TABLE event_logs (
    run_id         TEXT PRIMARY KEY NOT NULL,
    fence          INTEGER NOT NULL,  -- of the newest event
    number         INTEGER NOT NULL,  -- of the newest event within its fence; 0 = there is none
    bytes          INTEGER NOT NULL,  -- of JSON
    expires_at     INTEGER NOT NULL,
    followed_until INTEGER NOT NULL   -- by a worker that does not own the run
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

-- A run is removed in many ways; its events go with it in all of them.
CREATE TRIGGER runs_remove_events AFTER DELETE ON runs
BEGIN
    DELETE FROM run_events WHERE run_id = OLD.run_id;
    DELETE FROM event_logs WHERE run_id = OLD.run_id;
END;
