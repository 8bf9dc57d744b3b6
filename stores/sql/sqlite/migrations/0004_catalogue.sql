-- What clients see of threads beside their values: how long they are kept, and when their state changed.
-- `temporary`: made for one run by the server, and left out of listings.
ALTER TABLE threads ADD COLUMN ttl_ms INTEGER CHECK (ttl_ms >= 0);
ALTER TABLE threads ADD COLUMN temporary INTEGER NOT NULL DEFAULT 0 CHECK (temporary IN (0, 1));
ALTER TABLE threads ADD COLUMN state_updated_at INTEGER;

UPDATE threads SET state_updated_at = updated_at WHERE "values" IS NOT NULL;

-- Listings read one user's threads, or all. Their time of creation never changes, so that a run leaves
-- these indexes alone; a temporary thread is in neither.
CREATE INDEX threads_of_user ON threads (user_id, created_at, thread_id) WHERE temporary = 0;
CREATE INDEX threads_recent ON threads (created_at, thread_id) WHERE temporary = 0;

-- What may have expired is found by its moment. Only threads with a time to live are in it.
CREATE INDEX threads_expiry ON threads (updated_at + ttl_ms * 1000) WHERE ttl_ms IS NOT NULL;

-- When the fence that a removed temporary thread has left in deleted_threads may go as well. A table of its
-- own: workers of the version before fill deleted_threads without naming its columns.
CREATE TABLE passing_fences (
    forget_at INTEGER NOT NULL,
    thread_id TEXT NOT NULL,
    fence     INTEGER NOT NULL,
    PRIMARY KEY (forget_at, thread_id)
) STRICT, WITHOUT ROWID;
