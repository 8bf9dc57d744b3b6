-- The schema on PostgreSQL, as it is created: version 20. Later versions are numbered files in migrations/.
--
-- `rc` stands for the schema's own name, which the program puts in its place. stores/sql/sqlite/schema.sql is the same
-- schema on SQLite; tests/unit/test_schema_files.py lists what differs.
--
-- * Times are microseconds since 1970 (UTC) by the store's clock, unless the name ends in _ms.
-- * JSON is kept as text, byte for byte: jsonb has no U+0000 and does not keep the order of keys.
-- * Ids are compared by code point (COLLATE "C"), whatever the database's locale is.
-- * No table has a foreign key: an audit line, a webhook and a fence outlive the row that they name.

-- ---- the schema itself -------------------------------------------------------------------------------------

CREATE TABLE rc.schema_version (
    version    integer PRIMARY KEY,
    name       text NOT NULL,  -- of the file; the column's comment records the installed functions (ADR 0037)
    applied_at text NOT NULL,
    oldest     integer         -- the schema version that a program must know to work on this one (ADR 0047)
);

COMMENT ON TABLE rc.schema_version IS 'run-coordinator';  -- so that it differs from another program's table

-- ---- workers -----------------------------------------------------------------------------------------------

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

-- ---- threads -----------------------------------------------------------------------------------------------

-- Runs are serialised on threads. The row is the lock of its thread. A thread's status is derived and never stored.
CREATE TABLE rc.threads (
    thread_id        text COLLATE "C" PRIMARY KEY,
    user_id          text COLLATE "C",           -- the first user that was admitted; NULL = none was
    assistant_id     text COLLATE "C",           -- of the newest run that named one
    fence            bigint NOT NULL DEFAULT 0,  -- grows each time a run takes the thread
    next_seq         bigint NOT NULL DEFAULT 0,  -- the last place that was assigned in the thread's queue
    metadata         text NOT NULL DEFAULT '{}',
    "values"         text,                       -- what the thread holds between runs
    interrupts       text,                       -- what its last run paused for
    created_at       bigint NOT NULL,
    updated_at       bigint NOT NULL,
    state_updated_at bigint,                     -- when "values" were written last
    ttl_ms           bigint,                     -- removed so long after updated_at; NULL = kept
    temporary        boolean NOT NULL DEFAULT false,  -- made for one run; not listed
    -- A column and not an expression in the index: it stays NULL for a thread without a time to live, so that a run,
    -- which changes updated_at, changes no index of its thread.
    expires_at       bigint GENERATED ALWAYS AS (updated_at + ttl_ms * 1000) STORED
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

CREATE INDEX threads_of_user ON rc.threads (user_id, created_at, thread_id) WHERE NOT temporary;
CREATE INDEX threads_recent ON rc.threads (created_at, thread_id) WHERE NOT temporary;
CREATE INDEX threads_expiry ON rc.threads (expires_at, thread_id) WHERE expires_at IS NOT NULL;

-- JSON text as jsonb, for containment. What jsonb cannot hold (U+0000, half of a surrogate pair) is replaced by another
-- character; NULL where the text is no JSON. PARALLEL UNSAFE: a function that catches errors begins a subtransaction,
-- which a parallel query may not do before PostgreSQL 17.
CREATE FUNCTION rc.as_jsonb(_text text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE PARALLEL UNSAFE AS $$
BEGIN
    IF _text ~* '\\u(0000|d[89a-f])' THEN
        _text := regexp_replace(_text, '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufffe', 'g');
        _text := regexp_replace(_text, '(?<!\\)((?:\\\\)*)\\ud[89ab][0-9a-f]{2}(?!\\ud[c-f][0-9a-f]{2})', '\1\\ufffd', 'gi');
        _text := regexp_replace(_text, '(?<!\\ud[89ab][0-9a-f]{2})(?<!\\)((?:\\\\)*)\\ud[c-f][0-9a-f]{2}', '\1\\ufffd', 'gi');
    END IF;
    RETURN _text::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
    RETURN NULL;
END $$;

CREATE INDEX threads_metadata ON rc.threads USING gin (rc.as_jsonb(metadata) jsonb_path_ops) WHERE metadata <> '{}';

-- The fence of each deleted thread: a thread that is made again under its id continues from there, so that nothing that
-- still carries an old fence (a slot in Redis, a fenced worker) outranks it.
CREATE TABLE rc.deleted_threads (
    thread_id text COLLATE "C" PRIMARY KEY,
    fence     bigint NOT NULL
);

-- When the fence that a removed temporary thread left in deleted_threads may be removed as well.
CREATE TABLE rc.passing_fences (
    forget_at bigint NOT NULL,
    thread_id text COLLATE "C" NOT NULL,
    fence     bigint NOT NULL,
    PRIMARY KEY (forget_at, thread_id)
);

-- ---- runs --------------------------------------------------------------------------------------------------

-- One row per run, or per operation on a thread. `status` is what became of it, `holds_thread` whether it occupies its
-- thread's slot. What a row may be is checked by the audit triggers below and not by CHECK constraints: PostgreSQL
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

-- ---- the audit ---------------------------------------------------------------------------------------------

-- Every change of a run's status, slot, owner or fence, in commit order. Triggers write it, so that no transaction has
-- to, and none can leave it out.
CREATE TABLE rc.transitions (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id       text COLLATE "C" NOT NULL,
    thread_id    text COLLATE "C" NOT NULL,
    at           bigint NOT NULL,
    what         text NOT NULL,  -- admitted, queued, claimed, started, decided, finished, settled, ...
    from_status  text,
    to_status    text NOT NULL,
    holds_thread boolean NOT NULL,
    cause        text,
    actor        text,
    epoch        bigint,         -- of the owner, else of the home
    fence        bigint NOT NULL,
    detail       text            -- the reason of a cancel
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);

CREATE INDEX transitions_run ON rc.transitions (run_id, id);

-- Both triggers also check what a row may be. They fire once per statement, however many rows it wrote: that is what a
-- batch saves. Such a trigger fires on every update and takes no list of columns.
CREATE FUNCTION rc.audit_insert() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_wrong text;
BEGIN
    SELECT run_id INTO v_wrong FROM written
        WHERE kind NOT IN ('run', 'op')
           OR status NOT IN ('pending', 'running', 'success', 'error', 'timeout', 'interrupted')
           OR holds_thread AND (owner_epoch IS NULL OR settled_at IS NOT NULL);
    IF FOUND THEN
        RAISE EXCEPTION 'not a run: %', v_wrong USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO rc.transitions (run_id, thread_id, at, what, to_status, holds_thread, actor, epoch, fence)
    SELECT run_id, thread_id, updated_at,
        CASE WHEN holds_thread THEN 'admitted' WHEN not_before IS NOT NULL THEN 'delayed'
             WHEN home_epoch IS NOT NULL THEN 'queued' ELSE 'recorded' END,
        status, holds_thread, user_id, COALESCE(owner_epoch, home_epoch), fence
    FROM written;
    RETURN NULL;
END $$;

CREATE TRIGGER runs_audit_insert AFTER INSERT ON rc.runs REFERENCING NEW TABLE AS written
FOR EACH STATEMENT EXECUTE FUNCTION rc.audit_insert();

-- It makes webhooks due as well: a run settles in many ways (its owner, a cancel, the reaper, a repair), and all of
-- them pass here. enable_hashjoin: what a statement wrote has no index, whatever the function around it set.
CREATE FUNCTION rc.audit_update() RETURNS trigger LANGUAGE plpgsql SET enable_hashjoin = on AS $$
DECLARE
    v_reopened boolean;
    v_wrong text;
    v_settled boolean;
    v_changed boolean;
BEGIN
    SELECT bool_or(before.status <> after.status AND (before.status NOT IN ('pending', 'running') OR after.status = 'pending')),
           max(after.run_id) FILTER (
               WHERE after.status NOT IN ('pending', 'running', 'success', 'error', 'timeout', 'interrupted')
                  OR after.holds_thread AND (after.owner_epoch IS NULL OR after.settled_at IS NOT NULL)),
           bool_or(before.settled_at IS NULL AND after.settled_at IS NOT NULL),
           bool_or(before.status <> after.status OR before.holds_thread <> after.holds_thread
                   OR before.owner_epoch IS DISTINCT FROM after.owner_epoch OR before.fence <> after.fence)
        INTO v_reopened, v_wrong, v_settled, v_changed
        FROM before JOIN after ON after.run_id = before.run_id;
    IF v_reopened THEN
        RAISE EXCEPTION 'a terminal status is final and running never goes back to pending'
            USING ERRCODE = 'check_violation';
    ELSIF v_wrong IS NOT NULL THEN
        RAISE EXCEPTION 'not a run: %', v_wrong USING ERRCODE = 'check_violation';
    END IF;
    IF v_settled THEN
        UPDATE rc.webhooks w SET state = 'due', due_at = after.settled_at, next_at = after.settled_at,
            run = json_build_object('assistant_id', after.assistant_id, 'status', after.status,
                'multitask_strategy', after.multitask_strategy, 'error', after.error,
                'cancel_action', after.cancel_action, 'cancel_cause', after.cancel_cause,
                'cancel_reason', after.cancel_reason, 'created_at', after.created_at,
                'started_at', after.started_at, 'ended_at', after.ended_at, 'updated_at', after.updated_at),
            metadata = after.metadata, kwargs = after.kwargs, interrupts = after.interrupts,
            "values" = CASE WHEN after.status = 'success' AND after.result IS NOT NULL THEN after.result
                            ELSE (SELECT t."values" FROM rc.threads t WHERE t.thread_id = after.thread_id) END
        FROM before JOIN after ON after.run_id = before.run_id
        WHERE w.run_id = after.run_id AND w.state = 'waiting' AND before.settled_at IS NULL AND after.settled_at IS NOT NULL;
    END IF;
    IF v_changed THEN
        INSERT INTO rc.transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread,
                                    cause, actor, epoch, fence, detail)
        SELECT after.run_id, after.thread_id, after.updated_at,
            CASE WHEN after.holds_thread AND NOT before.holds_thread THEN 'claimed'
                 WHEN before.status <> after.status AND after.status = 'running' THEN 'started'
                 WHEN before.status <> after.status AND after.settled_at IS NOT NULL THEN 'finished'
                 WHEN before.status <> after.status THEN 'decided'
                 WHEN before.holds_thread AND NOT after.holds_thread THEN 'settled'
                 WHEN before.owner_epoch IS DISTINCT FROM after.owner_epoch THEN 'adopted'
                 ELSE 'fenced' END,
            before.status, after.status, after.holds_thread,
            CASE WHEN ended THEN after.cancel_cause END, CASE WHEN ended THEN after.cancel_actor END,
            COALESCE(after.owner_epoch, after.home_epoch), after.fence, CASE WHEN ended THEN after.cancel_reason END
        FROM before JOIN after ON after.run_id = before.run_id,
             LATERAL (SELECT after.status NOT IN ('pending', 'running') AS ended) how
        WHERE before.status <> after.status OR before.holds_thread <> after.holds_thread
           OR before.owner_epoch IS DISTINCT FROM after.owner_epoch OR before.fence <> after.fence;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER runs_audit_update AFTER UPDATE ON rc.runs REFERENCING OLD TABLE AS before NEW TABLE AS after
FOR EACH STATEMENT EXECUTE FUNCTION rc.audit_update();

-- A waiting run was handed over: the audit names the epoch that was its home. A claim writes the column as well.
CREATE FUNCTION rc.audit_home() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.home_epoch IS NOT NULL AND NEW.home_epoch IS NULL THEN
        INSERT INTO rc.transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread, epoch, fence)
        VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at, 'handed over', OLD.status, NEW.status,
                NEW.holds_thread, OLD.home_epoch, NEW.fence);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER runs_audit_home AFTER UPDATE OF home_epoch ON rc.runs
FOR EACH ROW EXECUTE FUNCTION rc.audit_home();

-- A delayed run has joined the queue.
CREATE FUNCTION rc.audit_due() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.not_before IS NOT NULL AND NEW.not_before IS NULL THEN
        INSERT INTO rc.transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread, epoch, fence)
        VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at, 'queued', OLD.status, NEW.status,
                NEW.holds_thread, NEW.home_epoch, NEW.fence);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER runs_audit_due AFTER UPDATE OF not_before ON rc.runs
FOR EACH ROW EXECUTE FUNCTION rc.audit_due();

-- ---- webhooks ----------------------------------------------------------------------------------------------

-- One row per run with a webhook, written with the run. When the run settles, the webhook becomes due and keeps a
-- copy of what is to be sent: the run may be pruned, or its thread deleted, before the delivery.
CREATE TABLE rc.webhooks (
    run_id      text COLLATE "C" PRIMARY KEY,
    thread_id   text COLLATE "C" NOT NULL,
    user_id     text COLLATE "C",
    url         text NOT NULL,
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'due', 'delivered', 'dead')),
    attempts    bigint NOT NULL DEFAULT 0,
    next_at     bigint,  -- while due: may be claimed from then on; a claim moves it by its lease
    claimed_by  bigint,  -- the epoch that made the last attempt
    status_code bigint,  -- of the last attempt
    error       text,    -- of the last attempt
    created_at  bigint NOT NULL,
    due_at      bigint,
    ended_at    bigint,  -- when it was delivered or given up
    run         text,    -- the run as it settled: a JSON object, without what has a column of its own
    metadata    text,
    kwargs      text,
    "values"    text,
    interrupts  text,
    CHECK ((state = 'due') = (next_at IS NOT NULL)),
    CHECK ((state IN ('delivered', 'dead')) = (ended_at IS NOT NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX webhooks_due ON rc.webhooks (next_at, run_id) WHERE state = 'due';
CREATE INDEX webhooks_due_of_user ON rc.webhooks (user_id, next_at, run_id) WHERE state = 'due';
CREATE INDEX webhooks_ended ON rc.webhooks (ended_at, run_id) WHERE ended_at IS NOT NULL;

-- ---- crons -------------------------------------------------------------------------------------------------

-- Runs that are created on a schedule. The program computes the moments; the store compares them with its clock.
CREATE TABLE rc.crons (
    cron_id          text COLLATE "C" PRIMARY KEY,
    user_id          text COLLATE "C",
    assistant_id     text COLLATE "C" NOT NULL,
    thread_id        text COLLATE "C",  -- NULL = a thread of its own for each run
    schedule         text NOT NULL,
    timezone         text,
    enabled          boolean NOT NULL,
    end_at           bigint,
    on_run_completed text,              -- what becomes of such a thread: delete | keep
    payload          text NOT NULL,     -- the run that is created: JSON
    metadata         text NOT NULL,
    next_at          bigint,            -- NULL = never again
    last_at          bigint,
    last_run_id      text COLLATE "C",
    last_error       text,
    created_at       bigint NOT NULL,
    updated_at       bigint NOT NULL,
    version          bigint NOT NULL DEFAULT 1  -- compared by replace
);

CREATE INDEX crons_due ON rc.crons (next_at, assistant_id) WHERE enabled AND next_at IS NOT NULL;
CREATE INDEX crons_of_user ON rc.crons (user_id, created_at);
CREATE INDEX crons_of_thread ON rc.crons (thread_id) WHERE thread_id IS NOT NULL;

-- ---- event logs --------------------------------------------------------------------------------------------

-- What runs emitted, for a while. Both tables stay empty where Redis keeps the logs.

-- One row per log: its newest event, its size, and until when a follower reads it.
CREATE TABLE rc.event_logs (
    run_id         text COLLATE "C" PRIMARY KEY,
    fence          bigint NOT NULL,  -- of the newest event
    number         bigint NOT NULL,  -- of the newest event within its fence; 0 = there is none
    bytes          bigint NOT NULL,  -- of JSON
    expires_at     bigint NOT NULL,
    followed_until bigint NOT NULL   -- by a worker that does not own the run
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX event_logs_expiry ON rc.event_logs (expires_at, run_id);

CREATE TABLE rc.run_events (
    run_id text COLLATE "C" NOT NULL,
    fence  bigint NOT NULL,
    number bigint NOT NULL,
    mode   text NOT NULL,
    json   text NOT NULL,
    PRIMARY KEY (run_id, fence, number)
) WITH (autovacuum_vacuum_scale_factor = 0.02);

-- A run is removed in many ways; its events go with it in all of them.
CREATE FUNCTION rc.remove_events() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_gone text[] := ARRAY(SELECT run_id FROM gone);
BEGIN
    DELETE FROM rc.run_events WHERE run_id = ANY (v_gone);
    DELETE FROM rc.event_logs WHERE run_id = ANY (v_gone);
    RETURN NULL;
END $$;

CREATE TRIGGER runs_remove_events AFTER DELETE ON rc.runs REFERENCING OLD TABLE AS gone
FOR EACH STATEMENT EXECUTE FUNCTION rc.remove_events();
