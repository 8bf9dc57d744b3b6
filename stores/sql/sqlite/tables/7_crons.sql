-- Runs that are created on a schedule. The program computes the moments; the store compares them with its clock.
CREATE TABLE crons (
    cron_id          TEXT PRIMARY KEY NOT NULL,
    user_id          TEXT,
    assistant_id     TEXT NOT NULL,
    thread_id        TEXT,           -- NULL = a thread of its own for each run
    schedule         TEXT NOT NULL,
    timezone         TEXT,
    enabled          INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    end_at           INTEGER,
    on_run_completed TEXT,           -- what becomes of such a thread: delete | keep
    payload          TEXT NOT NULL,  -- the run that is created: JSON
    metadata         TEXT NOT NULL,
    next_at          INTEGER,        -- NULL = never again
    last_at          INTEGER,
    last_run_id      TEXT,
    last_error       TEXT,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    version          INTEGER NOT NULL DEFAULT 1  -- compared by replace
) STRICT;

CREATE INDEX crons_due ON crons (next_at, assistant_id) WHERE enabled = 1 AND next_at IS NOT NULL;
CREATE INDEX crons_of_user ON crons (user_id, created_at);
CREATE INDEX crons_of_thread ON crons (thread_id) WHERE thread_id IS NOT NULL;
