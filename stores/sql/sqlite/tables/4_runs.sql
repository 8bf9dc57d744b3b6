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
