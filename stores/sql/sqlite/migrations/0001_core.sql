-- Workers, threads, runs and their audit. Times are microseconds since 1970; created_at keeps the
-- text it was given, created_us its instant (NULL where it cannot be read).

CREATE TABLE workers (
    epoch       INTEGER PRIMARY KEY AUTOINCREMENT,  -- AUTOINCREMENT: an epoch is never reused
    worker_id   TEXT NOT NULL,
    host        TEXT NOT NULL,
    boot_id     TEXT NOT NULL,
    pid         INTEGER NOT NULL,
    proof       TEXT,  -- which gate file proves that its process lives; NULL = none does
    version     TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('live', 'draining', 'dead')),
    hb_seq      INTEGER NOT NULL DEFAULT 0,
    ttl_ms      INTEGER NOT NULL CHECK (ttl_ms > 0),
    lease_until INTEGER NOT NULL,
    fenced_by   INTEGER,
    fenced_at   INTEGER,
    started_at  INTEGER NOT NULL
) STRICT;

CREATE INDEX workers_alive ON workers (epoch) WHERE state <> 'dead';

CREATE TABLE threads (
    thread_id    TEXT PRIMARY KEY NOT NULL,
    user_id      TEXT,
    assistant_id TEXT,
    fence        INTEGER NOT NULL DEFAULT 0,
    next_seq     INTEGER NOT NULL DEFAULT 0,
    metadata     TEXT NOT NULL DEFAULT '{}',
    "values"     TEXT,
    interrupts   TEXT,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A deleted thread leaves its fence behind: one that is made anew under the same id goes on from there,
-- so that nothing which still carries an old fence (a slot in Redis, a zombie) outranks it.
CREATE TABLE deleted_threads (
    thread_id TEXT PRIMARY KEY NOT NULL,
    fence     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
    run_id              TEXT PRIMARY KEY NOT NULL,
    kind                TEXT NOT NULL DEFAULT 'run' CHECK (kind IN ('run', 'op')),
    thread_id           TEXT NOT NULL,
    user_id             TEXT,
    assistant_id        TEXT,
    parent_run_id       TEXT,
    status              TEXT NOT NULL DEFAULT 'pending'
                        CHECK (status IN ('pending', 'running', 'success', 'error', 'timeout', 'interrupted')),
    paused              INTEGER NOT NULL DEFAULT 0,
    interrupts          TEXT,
    holds_thread        INTEGER NOT NULL DEFAULT 0 CHECK (holds_thread IN (0, 1)),
    owner_epoch         INTEGER,
    home_epoch          INTEGER,  -- set where the run was admitted into the waiting line
    fence               INTEGER NOT NULL DEFAULT 0,
    seq                 INTEGER NOT NULL DEFAULT 0,
    attempt             INTEGER NOT NULL DEFAULT 1,
    portable            INTEGER NOT NULL DEFAULT 0,
    multitask_strategy  TEXT NOT NULL DEFAULT 'reject',
    on_disconnect       TEXT NOT NULL DEFAULT 'cancel',
    not_before          INTEGER,
    deadline_at         INTEGER,
    idle_timeout_ms     INTEGER,
    queue_deadline_at   INTEGER,
    cancel_action       TEXT,
    cancel_cause        TEXT,
    cancel_reason       TEXT,
    cancel_actor        TEXT,
    cancel_requested_at INTEGER,
    cancel_delivered_at INTEGER,
    stopped_at          INTEGER,
    settled_at          INTEGER,
    rollback_ref        TEXT,
    rollback_state      TEXT,
    idempotency_key     TEXT,
    request_hash        TEXT,
    metadata            TEXT NOT NULL DEFAULT '{}',
    kwargs              TEXT NOT NULL DEFAULT '{}',
    result              TEXT,
    error               TEXT,
    model_name          TEXT,
    total_input_tokens  INTEGER NOT NULL DEFAULT 0,
    total_output_tokens INTEGER NOT NULL DEFAULT 0,
    total_tokens        INTEGER NOT NULL DEFAULT 0,
    llm_call_count      INTEGER NOT NULL DEFAULT 0,
    lead_agent_tokens   INTEGER NOT NULL DEFAULT 0,
    subagent_tokens     INTEGER NOT NULL DEFAULT 0,
    middleware_tokens   INTEGER NOT NULL DEFAULT 0,
    message_count       INTEGER NOT NULL DEFAULT 0,
    last_ai_message     TEXT,
    first_human_message TEXT,
    created_at          TEXT NOT NULL,
    created_us          INTEGER,
    started_at          INTEGER,
    ended_at            INTEGER,
    updated_at          INTEGER NOT NULL,
    CHECK (NOT holds_thread OR (owner_epoch IS NOT NULL AND settled_at IS NULL))
) STRICT;

-- The slot of a thread: the database itself refuses a second holder.
CREATE UNIQUE INDEX runs_one_holder ON runs (thread_id) WHERE holds_thread;
CREATE INDEX runs_owner   ON runs (owner_epoch) WHERE holds_thread;
CREATE INDEX runs_tick    ON runs (owner_epoch) WHERE settled_at IS NULL AND cancel_action IS NOT NULL;
CREATE INDEX runs_inflight ON runs (thread_id, seq) WHERE holds_thread OR status IN ('pending', 'running');
CREATE INDEX runs_home    ON runs (home_epoch) WHERE status = 'pending' AND NOT holds_thread;
CREATE INDEX runs_portable ON runs (home_epoch) WHERE status = 'pending' AND NOT holds_thread AND portable;
CREATE INDEX runs_history ON runs (thread_id, created_us DESC, run_id);
CREATE INDEX runs_recent  ON runs (created_us DESC, run_id);
CREATE UNIQUE INDEX runs_idempotency ON runs (idempotency_key, COALESCE(user_id, ''), thread_id)
    WHERE idempotency_key IS NOT NULL;

-- Without AUTOINCREMENT, whose own table would be written three times a run (5 % of its cost): ids grow
-- in commit order; only those of rows that were the newest when they were deleted come again.
CREATE TABLE transitions (
    id           INTEGER PRIMARY KEY,
    run_id       TEXT NOT NULL,
    thread_id    TEXT NOT NULL,
    at           INTEGER NOT NULL,
    what         TEXT NOT NULL,
    from_status  TEXT,
    to_status    TEXT NOT NULL,
    holds_thread INTEGER NOT NULL,
    cause        TEXT,
    actor        TEXT,
    epoch        INTEGER,
    fence        INTEGER NOT NULL,
    detail       TEXT
) STRICT;

CREATE INDEX transitions_run ON transitions (run_id, id);

CREATE TRIGGER runs_status_is_final BEFORE UPDATE OF status ON runs
WHEN OLD.status IS NOT NEW.status
 AND (OLD.status NOT IN ('pending', 'running') OR NEW.status = 'pending')
BEGIN
    SELECT RAISE(ABORT, 'a terminal status is final and running never goes back to pending');
END;

CREATE TRIGGER runs_audit_insert AFTER INSERT ON runs
BEGIN
    INSERT INTO transitions (run_id, thread_id, at, what, to_status, holds_thread, actor, epoch, fence)
    VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at,
            CASE WHEN NEW.holds_thread THEN 'admitted' WHEN NEW.home_epoch IS NOT NULL THEN 'queued' ELSE 'recorded' END,
            NEW.status, NEW.holds_thread, NEW.user_id, COALESCE(NEW.owner_epoch, NEW.home_epoch), NEW.fence);
END;

CREATE TRIGGER runs_audit_update AFTER UPDATE OF status, holds_thread, owner_epoch, fence ON runs
WHEN OLD.status IS NOT NEW.status OR OLD.holds_thread IS NOT NEW.holds_thread
  OR OLD.owner_epoch IS NOT NEW.owner_epoch OR OLD.fence IS NOT NEW.fence
BEGIN
    INSERT INTO transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread,
                             cause, actor, epoch, fence, detail)
    VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at,
            CASE WHEN NEW.holds_thread AND NOT OLD.holds_thread THEN 'claimed'
                 WHEN OLD.status IS NOT NEW.status AND NEW.status = 'running' THEN 'started'
                 WHEN OLD.status IS NOT NEW.status AND NEW.settled_at IS NOT NULL THEN 'finished'
                 WHEN OLD.status IS NOT NEW.status THEN 'decided'
                 WHEN OLD.holds_thread AND NOT NEW.holds_thread THEN 'settled'
                 WHEN OLD.owner_epoch IS NOT NEW.owner_epoch THEN 'adopted'
                 ELSE 'fenced' END,
            OLD.status, NEW.status, NEW.holds_thread,
            CASE WHEN NEW.status NOT IN ('pending', 'running') THEN NEW.cancel_cause END,
            CASE WHEN NEW.status NOT IN ('pending', 'running') THEN NEW.cancel_actor END,
            COALESCE(NEW.owner_epoch, NEW.home_epoch), NEW.fence,
            CASE WHEN NEW.status NOT IN ('pending', 'running') THEN NEW.cancel_reason END);
END;
