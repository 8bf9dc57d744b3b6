-- Where threads have state outside of this store: noted when a run starts. A removed thread leaves its rows until that
-- state is removed as well.
CREATE TABLE thread_states (
    thread_id     TEXT NOT NULL,
    kind          TEXT NOT NULL,               -- of the storage
    removed_fence INTEGER,                     -- of the removed thread; NULL = the thread exists
    due_at        INTEGER NOT NULL DEFAULT 0,  -- when a worker may next try to remove the state
    attempts      INTEGER NOT NULL DEFAULT 0,  -- to remove it
    PRIMARY KEY (thread_id, kind)
) STRICT, WITHOUT ROWID;

CREATE INDEX thread_states_due ON thread_states (due_at) WHERE removed_fence IS NOT NULL;
