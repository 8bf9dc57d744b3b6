-- Runs are serialised on threads. A thread's status is derived and never stored.
CREATE TABLE threads (
    thread_id        TEXT PRIMARY KEY NOT NULL,
    user_id          TEXT,                        -- the first user that was admitted; NULL = none was
    assistant_id     TEXT,                        -- of the newest run that named one
    fence            INTEGER NOT NULL DEFAULT 0,  -- grows each time a run takes the thread
    next_seq         INTEGER NOT NULL DEFAULT 0,  -- the last place that was assigned in the thread's queue
    metadata         TEXT NOT NULL DEFAULT '{}',
    "values"         TEXT,                        -- what the thread holds between runs
    interrupts       TEXT,                        -- what its last run paused for
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    state_updated_at INTEGER,                     -- when "values" were written last
    ttl_ms           INTEGER CHECK (ttl_ms >= 0),  -- removed so long after updated_at; NULL = kept
    temporary        INTEGER NOT NULL DEFAULT 0 CHECK (temporary IN (0, 1))  -- made for one run; not listed
) STRICT, WITHOUT ROWID;

CREATE INDEX threads_of_user ON threads (user_id, created_at, thread_id) WHERE temporary = 0;
CREATE INDEX threads_recent ON threads (created_at, thread_id) WHERE temporary = 0;
CREATE INDEX threads_expiry ON threads (updated_at + ttl_ms * 1000) WHERE ttl_ms IS NOT NULL;

-- The fence of each deleted thread: a thread that is made again under its id continues from there, so that nothing that
-- still carries an old fence (a slot in Redis, a fenced worker) outranks it.
CREATE TABLE deleted_threads (
    thread_id TEXT PRIMARY KEY NOT NULL,
    fence     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- When the fence that a removed temporary thread left in deleted_threads may be removed as well.
CREATE TABLE passing_fences (
    forget_at INTEGER NOT NULL,
    thread_id TEXT NOT NULL,
    fence     INTEGER NOT NULL,
    PRIMARY KEY (forget_at, thread_id)
) STRICT, WITHOUT ROWID;
