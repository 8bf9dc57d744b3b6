-- One row per run, or per operation on a thread. `status` is what became of it, `holds_thread` whether it occupies its
-- thread's slot. What a row may be is checked by the audit triggers (5_audit.sql) and not by CHECK constraints: PostgreSQL
-- compiles each constraint anew for every statement.
CREATE TABLE rc.runs (
    run_id              text COLLATE "C" PRIMARY KEY,
    kind                text NOT NULL DEFAULT 'run',  -- run | op: an operation is not listed
    thread_id           text COLLATE "C" NOT NULL,
    user_id             text COLLATE "C",
    assistant_id        text COLLATE "C",
    parent_run_id       text COLLATE "C",              -- the run ends with its parent, unless that succeeds

    status              text NOT NULL DEFAULT 'pending',  -- pending | running | success | error | timeout | interrupted
    paused              boolean NOT NULL DEFAULT false,   -- it succeeded with work left
    interrupts          text,                          -- what it paused for
    holds_thread        boolean NOT NULL DEFAULT false,
    owner_epoch         bigint,                        -- the worker that executes it; only its writes are accepted
    home_epoch          bigint,                        -- the worker that queued it and will execute it
    fence               bigint NOT NULL DEFAULT 0,     -- of its thread when it took it; 0 = it runs beside the slot
    seq                 bigint NOT NULL DEFAULT 0,     -- its place in the thread's queue
    attempt             bigint NOT NULL DEFAULT 1,
    portable            boolean NOT NULL DEFAULT false,  -- any worker that knows the assistant may execute it

    multitask_strategy  text NOT NULL DEFAULT 'reject',  -- reject | enqueue | interrupt | rollback
    on_disconnect       text NOT NULL DEFAULT 'cancel',  -- cancel | continue
    not_before          bigint,                        -- delayed until then; NULL once it has joined the queue
    timeout_ms          bigint,                        -- how long it may run
    deadline_at         bigint,                        -- set when it starts
    idle_timeout_ms     bigint,
    queue_deadline_at   bigint,                        -- until when it may wait

    cancel_action       text,                          -- interrupt | rollback
    cancel_cause        text,
    cancel_reason       text,
    cancel_actor        text,
    cancel_requested_at bigint,
    cancel_delivered_at bigint,                        -- when its task was cancelled
    stopped_at          bigint,                        -- when its task, with all that it tracked, was over
    settled_at          bigint,                        -- when its thread became free

    rollback_ref        text,                          -- what a rollback restores; opaque to SQL
    rollback_state      text,                          -- 'tried N' | 'adopted N' | 'failed'
    saved               boolean NOT NULL DEFAULT false,  -- saved_* are what the thread had before the run's first save
    saved_values        text,
    saved_interrupts    text,
    checkpointed        boolean NOT NULL DEFAULT false,  -- it left a state on its thread:
    checkpoint_values   text,                          -- these values, or `result` where they are NULL

    idempotency_key     text COLLATE "C",
    request_hash        text,                          -- of the request that came with the key
    metadata            text NOT NULL DEFAULT '{}',
    kwargs              text NOT NULL DEFAULT '{}',
    result              text,
    error               text,

    model_name          text,
    total_input_tokens  bigint NOT NULL DEFAULT 0,
    total_output_tokens bigint NOT NULL DEFAULT 0,
    total_tokens        bigint NOT NULL DEFAULT 0,
    llm_call_count      bigint NOT NULL DEFAULT 0,
    lead_agent_tokens   bigint NOT NULL DEFAULT 0,
    subagent_tokens     bigint NOT NULL DEFAULT 0,
    middleware_tokens   bigint NOT NULL DEFAULT 0,
    message_count       bigint NOT NULL DEFAULT 0,
    last_ai_message     text,
    first_human_message text,

    created_at          text NOT NULL,                 -- as the caller wrote it
    created_us          bigint,                        -- the same moment; NULL where the text cannot be read
    started_at          bigint,
    ended_at            bigint,
    updated_at          bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- The slot: the database itself refuses a second holder of a thread.
CREATE UNIQUE INDEX runs_one_holder ON rc.runs (thread_id) WHERE holds_thread;

CREATE UNIQUE INDEX runs_idempotency ON rc.runs (idempotency_key, COALESCE(user_id, ''), thread_id)
    WHERE idempotency_key IS NOT NULL;

-- What a worker executes; of that, what was decided and has not settled.
CREATE INDEX runs_owner ON rc.runs (owner_epoch) WHERE holds_thread;
CREATE INDEX runs_tick ON rc.runs (owner_epoch) WHERE settled_at IS NULL AND cancel_action IS NOT NULL;

-- Runs in flight: of a thread in the order of its queue, of a parent, and all of them by id.
CREATE INDEX runs_inflight ON rc.runs (thread_id, seq) WHERE holds_thread OR status IN ('pending', 'running');
CREATE INDEX runs_children ON rc.runs (parent_run_id)
    WHERE parent_run_id IS NOT NULL AND status IN ('pending', 'running');
CREATE INDEX runs_open ON rc.runs (run_id) WHERE holds_thread OR status IN ('pending', 'running');

-- Waiting runs: by home, by user (for the limit per user), portable ones by home (0 = none) and by assistant.
-- Expressions have statistics of these rows alone; those of the columns are of all runs, and mislead the planner.
CREATE INDEX runs_home ON rc.runs (home_epoch) WHERE status = 'pending' AND NOT holds_thread;
CREATE INDEX runs_waiting_of_user ON rc.runs (user_id) WHERE status = 'pending' AND NOT holds_thread;
CREATE INDEX runs_portable ON rc.runs ((COALESCE(home_epoch, 0)))
    WHERE status = 'pending' AND NOT holds_thread AND portable;
CREATE INDEX runs_of_assistant ON rc.runs ((COALESCE(assistant_id, '')))
    WHERE status = 'pending' AND NOT holds_thread AND portable;

-- Runs beside the slot, in flight or decided and not settled, by owner and by thread.
CREATE INDEX runs_beside ON rc.runs (owner_epoch)
    WHERE NOT holds_thread AND owner_epoch IS NOT NULL AND settled_at IS NULL;
CREATE INDEX runs_beside_of_thread ON rc.runs (thread_id)
    WHERE NOT holds_thread AND owner_epoch IS NOT NULL AND settled_at IS NULL;

-- Imported runs in flight: they have no owner and do not wait.
CREATE INDEX runs_unowned ON rc.runs (run_id)
    WHERE owner_epoch IS NULL
      AND (status = 'running' OR status = 'pending' AND home_epoch IS NULL AND NOT portable);

-- What is due or overdue, by its moment.
CREATE INDEX runs_due ON rc.runs (not_before, run_id)
    WHERE status = 'pending' AND NOT holds_thread AND not_before IS NOT NULL;
CREATE INDEX runs_deadline ON rc.runs (deadline_at) WHERE status = 'running' AND deadline_at IS NOT NULL;
CREATE INDEX runs_queue_deadline ON rc.runs (queue_deadline_at)
    WHERE status = 'pending' AND NOT holds_thread AND queue_deadline_at IS NOT NULL;

-- History: of a thread, of all threads, and the states that a thread has had.
CREATE INDEX runs_history ON rc.runs (thread_id, created_us DESC NULLS LAST, run_id);
CREATE INDEX runs_recent ON rc.runs (created_us DESC NULLS LAST, run_id);
CREATE INDEX runs_checkpoints ON rc.runs (thread_id, fence) WHERE checkpointed;

-- One call of `admit`, `start`, `finish` and `decide`, which take arrays of these (stores/sql/postgres/functions). A worker
-- sends them as JSON and leaves out what is NULL, so that a later attribute is one that earlier workers leave out. `now`
-- is a test's clock; NULL = the server's.
CREATE TYPE rc.admission AS (
    epoch bigint,             -- of the admitting worker
    beside boolean,           -- without the one-run-per-thread rule
    run_id text, portable boolean, created_at text, created_us bigint, request_hash text,
    stamp text,               -- keys that are added to the thread's metadata: a JSON object
    -- By the names of RunSpec (stores/spec.py). thread_must_exist: refuse an unknown thread. adopt_thread: assign a thread
    -- without an owner. temporary_ms: time to live of a thread that this admission creates.
    kind text, thread_id text, user_id text, assistant_id text, parent_run_id text, multitask_strategy text,
    on_disconnect text, metadata text, kwargs text, model_name text, idempotency_key text, timeout_ms bigint,
    idle_timeout_ms bigint, queue_timeout_ms bigint, delay_ms bigint, webhook text, thread_must_exist boolean,
    adopt_thread boolean, temporary_ms bigint,
    per_thread bigint, per_user bigint,                 -- limits of the queue; NULL = none
    cron_id text, cron_at bigint, cron_next bigint,     -- the moment of a cron that the run is for
    now bigint
);
CREATE TYPE rc.starting AS (
    run_id text, epoch bigint, fence bigint, ref text, saved boolean, saved_values text, saved_interrupts text, now bigint
);
CREATE TYPE rc.finishing AS (
    run_id text, thread_id text, epoch bigint, fence bigint,
    hold boolean,             -- decide only: the task has not stopped
    status text, error text, result text, "values" text, paused boolean, interrupts text,
    delivered_at bigint, stopped_at bigint, now bigint
);
CREATE TYPE rc.deciding AS (
    run_id text, status text, action text, cause text, reason text, actor text, error text,
    while_waiting boolean,    -- only while it waits for its turn
    home bigint,              -- only while that epoch is its home
    now bigint
);

-- How a run stands, as every decision returns it.
CREATE TYPE rc.standing AS (
    run_id text, thread_id text, status text, settled_at bigint, owner_epoch bigint, home_epoch bigint,
    fence bigint, cancel_action text, cancel_cause text, cancel_reason text, cancel_actor text, error text
);
