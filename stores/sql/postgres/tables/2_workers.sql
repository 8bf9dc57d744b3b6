-- One row per incarnation of a gateway process. A restarted process registers again with a new epoch.
CREATE TABLE rc.workers (
    epoch          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- never reused
    worker_id      text NOT NULL,
    host           text NOT NULL,
    boot_id        text NOT NULL,              -- of the host's kernel
    pid            bigint NOT NULL,
    proof          text,                       -- drawn per registration; may name a lock that proves the process alive
    version        text NOT NULL,              -- of the program
    assistants     text[] NOT NULL DEFAULT '{}',  -- their waiting portable runs can be executed by this worker
    state          text NOT NULL CHECK (state IN ('live', 'draining', 'dead')),
    hb_seq         bigint NOT NULL DEFAULT 0,  -- heartbeats so far; a reaper compares it
    ttl_ms         bigint NOT NULL CHECK (ttl_ms > 0),
    lease_until    bigint NOT NULL,
    started_at     bigint NOT NULL,
    drain_asked_at bigint,                     -- when an operator requested this drain
    drain_grace_ms bigint,                     -- NULL = the grace of the worker's own settings
    fenced_by      bigint,                     -- the epoch that declared this one dead; its own where it retired
    fenced_at      bigint,
    fenced_actor   text                        -- who declared the worker dead; NULL = no operator did
) WITH (fillfactor = 50);  -- a heartbeat changes no indexed column: the row is updated on its own page

CREATE INDEX workers_alive ON rc.workers (epoch) WHERE state <> 'dead';
