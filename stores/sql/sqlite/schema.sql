-- The schema on SQLite, as it is created: version 20. Later versions are numbered files in migrations/.
--
-- stores/sql/postgres/schema.sql is the same schema on PostgreSQL; tests/unit/test_schema_files.py lists what differs.
--
-- * Times are microseconds since 1970 (UTC) by the store's clock, unless the name ends in _ms.
-- * JSON is kept as text, byte for byte.
-- * No table has a foreign key: an audit line, a webhook and a fence outlive the row that they name.

-- ---- the schema itself -------------------------------------------------------------------------------------

CREATE TABLE schema_version (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,  -- of the file
    applied_at TEXT NOT NULL,
    oldest     INTEGER         -- the schema version that a program must know to work on this one (ADR 0047)
);

-- ---- workers -----------------------------------------------------------------------------------------------

-- One row per incarnation of a gateway process. A restarted process registers again with a new epoch.
CREATE TABLE workers (
    epoch          INTEGER PRIMARY KEY AUTOINCREMENT,  -- AUTOINCREMENT: an epoch is never reused
    worker_id      TEXT NOT NULL,
    host           TEXT NOT NULL,
    boot_id        TEXT NOT NULL,               -- of the host's kernel
    pid            INTEGER NOT NULL,
    proof          TEXT,                        -- which gate file proves that its process lives; NULL = none does
    version        TEXT NOT NULL,               -- of the program
    assistants     TEXT NOT NULL DEFAULT '[]',  -- JSON array: their waiting portable runs can be executed by this worker
    state          TEXT NOT NULL CHECK (state IN ('live', 'draining', 'dead')),
    hb_seq         INTEGER NOT NULL DEFAULT 0,  -- heartbeats so far; a reaper compares it
    ttl_ms         INTEGER NOT NULL CHECK (ttl_ms > 0),
    lease_until    INTEGER NOT NULL,
    started_at     INTEGER NOT NULL,
    drain_asked_at INTEGER,                     -- when an operator requested this drain
    drain_grace_ms INTEGER,                     -- NULL = the grace of the worker's own settings
    fenced_by      INTEGER,                     -- the epoch that declared this one dead; its own where it retired
    fenced_at      INTEGER,
    fenced_actor   TEXT                         -- who declared the worker dead; NULL = no operator did
) STRICT;

CREATE INDEX workers_alive ON workers (epoch) WHERE state <> 'dead';

-- ---- threads -----------------------------------------------------------------------------------------------

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

-- ---- runs --------------------------------------------------------------------------------------------------

-- One row per run, or per operation on a thread. `status` is what became of it, `holds_thread` whether it occupies its
-- thread's slot.
CREATE TABLE runs (
    run_id              TEXT PRIMARY KEY NOT NULL,
    kind                TEXT NOT NULL DEFAULT 'run' CHECK (kind IN ('run', 'op')),  -- an operation is not listed
    thread_id           TEXT NOT NULL,
    user_id             TEXT,
    assistant_id        TEXT,
    parent_run_id       TEXT,                           -- the run ends with its parent, unless that succeeds

    status              TEXT NOT NULL DEFAULT 'pending'
                        CHECK (status IN ('pending', 'running', 'success', 'error', 'timeout', 'interrupted')),
    paused              INTEGER NOT NULL DEFAULT 0,     -- it succeeded with work left
    interrupts          TEXT,                           -- what it paused for
    holds_thread        INTEGER NOT NULL DEFAULT 0 CHECK (holds_thread IN (0, 1)),
    owner_epoch         INTEGER,                        -- the worker that executes it; only its writes are accepted
    home_epoch          INTEGER,                        -- the worker that queued it and will execute it
    fence               INTEGER NOT NULL DEFAULT 0,     -- of its thread when it took it; 0 = it runs beside the slot
    seq                 INTEGER NOT NULL DEFAULT 0,     -- its place in the thread's queue
    attempt             INTEGER NOT NULL DEFAULT 1,
    portable            INTEGER NOT NULL DEFAULT 0,     -- any worker that knows the assistant may execute it

    multitask_strategy  TEXT NOT NULL DEFAULT 'reject',  -- reject | enqueue | interrupt | rollback
    on_disconnect       TEXT NOT NULL DEFAULT 'cancel',  -- cancel | continue
    not_before          INTEGER,                        -- delayed until then; NULL once it has joined the queue
    timeout_ms          INTEGER,                        -- how long it may run
    deadline_at         INTEGER,                        -- set when it starts
    idle_timeout_ms     INTEGER,
    queue_deadline_at   INTEGER,                        -- until when it may wait

    cancel_action       TEXT,                           -- interrupt | rollback
    cancel_cause        TEXT,
    cancel_reason       TEXT,
    cancel_actor        TEXT,
    cancel_requested_at INTEGER,
    cancel_delivered_at INTEGER,                        -- when its task was cancelled
    stopped_at          INTEGER,                        -- when its task, with all that it tracked, was over
    settled_at          INTEGER,                        -- when its thread became free

    rollback_ref        TEXT,                           -- what a rollback restores: JSON
    rollback_state      TEXT,                           -- 'tried N' | 'adopted N' | 'failed'
    checkpointed        INTEGER NOT NULL DEFAULT 0 CHECK (checkpointed IN (0, 1)),  -- it left a state on its thread:
    checkpoint_values   TEXT,                           -- these values, or `result` where they are NULL

    idempotency_key     TEXT,
    request_hash        TEXT,                           -- of the request that came with the key
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

    created_at          TEXT NOT NULL,                  -- as the caller wrote it
    created_us          INTEGER,                        -- the same moment; NULL where the text cannot be read
    started_at          INTEGER,
    ended_at            INTEGER,
    updated_at          INTEGER NOT NULL,
    CHECK (NOT holds_thread OR (owner_epoch IS NOT NULL AND settled_at IS NULL))
) STRICT;

-- The slot: the database itself refuses a second holder of a thread.
CREATE UNIQUE INDEX runs_one_holder ON runs (thread_id) WHERE holds_thread;

CREATE UNIQUE INDEX runs_idempotency ON runs (idempotency_key, COALESCE(user_id, ''), thread_id)
    WHERE idempotency_key IS NOT NULL;

-- What a worker executes; of that, what was decided and has not settled.
CREATE INDEX runs_owner ON runs (owner_epoch) WHERE holds_thread;
CREATE INDEX runs_tick ON runs (owner_epoch) WHERE settled_at IS NULL AND cancel_action IS NOT NULL;

-- Runs in flight: of a thread in the order of its queue, and of a parent.
CREATE INDEX runs_inflight ON runs (thread_id, seq) WHERE holds_thread OR status IN ('pending', 'running');
CREATE INDEX runs_children ON runs (parent_run_id)
    WHERE parent_run_id IS NOT NULL AND status IN ('pending', 'running');

-- Waiting runs: by home, by user (for the limit per user), portable ones by home and by assistant.
CREATE INDEX runs_home ON runs (home_epoch) WHERE status = 'pending' AND NOT holds_thread;
CREATE INDEX runs_waiting_of_user ON runs (user_id) WHERE status = 'pending' AND NOT holds_thread;
CREATE INDEX runs_portable ON runs (home_epoch) WHERE status = 'pending' AND NOT holds_thread AND portable;
CREATE INDEX runs_of_assistant ON runs (COALESCE(assistant_id, ''))
    WHERE status = 'pending' AND NOT holds_thread AND portable;

-- Runs beside the slot, in flight or decided and not settled, by owner and by thread.
CREATE INDEX runs_beside ON runs (owner_epoch)
    WHERE NOT holds_thread AND owner_epoch IS NOT NULL AND settled_at IS NULL;
CREATE INDEX runs_beside_of_thread ON runs (thread_id)
    WHERE NOT holds_thread AND owner_epoch IS NOT NULL AND settled_at IS NULL;

-- Imported runs in flight: they have no owner and do not wait.
CREATE INDEX runs_unowned ON runs (run_id)
    WHERE owner_epoch IS NULL
      AND (status = 'running' OR status = 'pending' AND home_epoch IS NULL AND NOT portable);

-- What is due or overdue, by its moment.
CREATE INDEX runs_due ON runs (not_before)
    WHERE status = 'pending' AND NOT holds_thread AND not_before IS NOT NULL;
CREATE INDEX runs_deadline ON runs (deadline_at) WHERE status = 'running' AND deadline_at IS NOT NULL;
CREATE INDEX runs_queue_deadline ON runs (queue_deadline_at)
    WHERE status = 'pending' AND NOT holds_thread AND queue_deadline_at IS NOT NULL;

-- History: of a thread, of all threads, and the states that a thread has had.
CREATE INDEX runs_history ON runs (thread_id, created_us DESC, run_id);
CREATE INDEX runs_recent ON runs (created_us DESC, run_id);
CREATE INDEX runs_checkpoints ON runs (thread_id, fence) WHERE checkpointed;

CREATE TRIGGER runs_status_is_final BEFORE UPDATE OF status ON runs
WHEN OLD.status IS NOT NEW.status
 AND (OLD.status NOT IN ('pending', 'running') OR NEW.status = 'pending')
BEGIN
    SELECT RAISE(ABORT, 'a terminal status is final and running never goes back to pending');
END;

-- ---- the audit ---------------------------------------------------------------------------------------------

-- Every change of a run's status, slot, owner or fence, in commit order. Triggers write it, so that no transaction has
-- to, and none can leave it out. Without AUTOINCREMENT, whose own table would be written three times per run (5 % of
-- its cost): ids grow in commit order; only those of rows that were the newest when they were deleted are reused.
CREATE TABLE transitions (
    id           INTEGER PRIMARY KEY,
    run_id       TEXT NOT NULL,
    thread_id    TEXT NOT NULL,
    at           INTEGER NOT NULL,
    what         TEXT NOT NULL,  -- admitted, queued, claimed, started, decided, finished, settled, ...
    from_status  TEXT,
    to_status    TEXT NOT NULL,
    holds_thread INTEGER NOT NULL,
    cause        TEXT,
    actor        TEXT,
    epoch        INTEGER,        -- of the owner, else of the home
    fence        INTEGER NOT NULL,
    detail       TEXT            -- the reason of a cancel
) STRICT;

CREATE INDEX transitions_run ON transitions (run_id, id);

CREATE TRIGGER runs_audit_insert AFTER INSERT ON runs
BEGIN
    INSERT INTO transitions (run_id, thread_id, at, what, to_status, holds_thread, actor, epoch, fence)
    VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at,
            CASE WHEN NEW.holds_thread THEN 'admitted' WHEN NEW.not_before IS NOT NULL THEN 'delayed'
                 WHEN NEW.home_epoch IS NOT NULL THEN 'queued' ELSE 'recorded' END,
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

-- A waiting run was handed over: the audit names the epoch that was its home.
CREATE TRIGGER runs_audit_home AFTER UPDATE OF home_epoch ON runs
WHEN OLD.home_epoch IS NOT NEW.home_epoch AND NEW.home_epoch IS NULL
BEGIN
    INSERT INTO transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread, epoch, fence)
    VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at, 'handed over', OLD.status, NEW.status,
            NEW.holds_thread, OLD.home_epoch, NEW.fence);
END;

-- A delayed run has joined the queue.
CREATE TRIGGER runs_audit_due AFTER UPDATE OF not_before ON runs
WHEN OLD.not_before IS NOT NULL AND NEW.not_before IS NULL
BEGIN
    INSERT INTO transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread, epoch, fence)
    VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at, 'queued', OLD.status, NEW.status,
            NEW.holds_thread, NEW.home_epoch, NEW.fence);
END;

-- ---- webhooks ----------------------------------------------------------------------------------------------

-- One row per run with a webhook, written with the run. When the run settles, the webhook becomes due and keeps a
-- copy of what is to be sent: the run may be pruned, or its thread deleted, before the delivery.
CREATE TABLE webhooks (
    run_id      TEXT PRIMARY KEY NOT NULL,
    thread_id   TEXT NOT NULL,
    user_id     TEXT,
    url         TEXT NOT NULL,
    state       TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'due', 'delivered', 'dead')),
    attempts    INTEGER NOT NULL DEFAULT 0,
    next_at     INTEGER,  -- while due: may be claimed from then on; a claim moves it by its lease
    claimed_by  INTEGER,  -- the epoch that made the last attempt
    status_code INTEGER,  -- of the last attempt
    error       TEXT,     -- of the last attempt
    created_at  INTEGER NOT NULL,
    due_at      INTEGER,
    ended_at    INTEGER,  -- when it was delivered or given up
    run         TEXT,     -- the run as it settled: a JSON object, without what has a column of its own
    metadata    TEXT,
    kwargs      TEXT,
    "values"    TEXT,
    interrupts  TEXT,
    CHECK ((state = 'due') = (next_at IS NOT NULL)),
    CHECK ((state IN ('delivered', 'dead')) = (ended_at IS NOT NULL))
) STRICT;

CREATE INDEX webhooks_due ON webhooks (next_at) WHERE state = 'due';
CREATE INDEX webhooks_due_of_user ON webhooks (user_id, next_at, run_id) WHERE state = 'due';
CREATE INDEX webhooks_ended ON webhooks (ended_at) WHERE ended_at IS NOT NULL;

-- A run settles in many ways (its owner, a cancel, the reaper, a repair); a trigger sees all of them. JSON columns are
-- copied as they are: what cannot be parsed must not keep a run from ending.
CREATE TRIGGER runs_webhook_due AFTER UPDATE OF settled_at ON runs
WHEN OLD.settled_at IS NULL AND NEW.settled_at IS NOT NULL
BEGIN
    UPDATE webhooks SET state = 'due', due_at = NEW.settled_at, next_at = NEW.settled_at,
        run = json_object('assistant_id', NEW.assistant_id, 'status', NEW.status,
            'multitask_strategy', NEW.multitask_strategy, 'error', NEW.error,
            'cancel_action', NEW.cancel_action, 'cancel_cause', NEW.cancel_cause,
            'cancel_reason', NEW.cancel_reason, 'created_at', NEW.created_at,
            'started_at', NEW.started_at, 'ended_at', NEW.ended_at, 'updated_at', NEW.updated_at),
        metadata = NEW.metadata, kwargs = NEW.kwargs, interrupts = NEW.interrupts,
        "values" = CASE WHEN NEW.status = 'success' AND NEW.result IS NOT NULL THEN NEW.result
                        ELSE (SELECT t."values" FROM threads t WHERE t.thread_id = NEW.thread_id) END
    WHERE run_id = NEW.run_id AND state = 'waiting';
END;

-- ---- crons -------------------------------------------------------------------------------------------------

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

-- ---- event logs --------------------------------------------------------------------------------------------

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
