-- Where threads have state outside of this store: noted when a run starts. A removed thread leaves its rows until that
-- state is removed as well.
CREATE TABLE rc.thread_states (
    thread_id     text COLLATE "C" NOT NULL,
    kind          text COLLATE "C" NOT NULL,   -- of the storage
    removed_fence bigint,                      -- of the removed thread; NULL = the thread exists
    due_at        bigint NOT NULL DEFAULT 0,   -- when a worker may next try to remove the state
    attempts      bigint NOT NULL DEFAULT 0,   -- to remove it
    PRIMARY KEY (thread_id, kind)
);

CREATE INDEX thread_states_due ON rc.thread_states (due_at) WHERE removed_fence IS NOT NULL;
