-- Workers, threads, runs and their audit. `rc` stands for the schema's name: whoever runs this puts it in.
-- Times are microseconds since 1970; created_at keeps the text it was given, created_us its instant (NULL
-- where it cannot be read). JSON is kept as text, letter for letter: jsonb knows no U+0000 and no order.
-- Ids are compared by code point on every database, whatever its locale.

CREATE TABLE rc.workers (
    epoch       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- never reused
    worker_id   text NOT NULL,
    host        text NOT NULL,
    boot_id     text NOT NULL,
    pid         bigint NOT NULL,
    proof       text,
    version     text NOT NULL,
    state       text NOT NULL CHECK (state IN ('live', 'draining', 'dead')),
    hb_seq      bigint NOT NULL DEFAULT 0,
    ttl_ms      bigint NOT NULL CHECK (ttl_ms > 0),
    lease_until bigint NOT NULL,
    fenced_by   bigint,
    fenced_at   bigint,
    started_at  bigint NOT NULL
) WITH (fillfactor = 50);  -- a heartbeat changes no index: room for it on the row's own page

CREATE INDEX workers_alive ON rc.workers (epoch) WHERE state <> 'dead';

CREATE TABLE rc.threads (
    thread_id    text COLLATE "C" PRIMARY KEY,
    user_id      text COLLATE "C",
    assistant_id text COLLATE "C",
    fence        bigint NOT NULL DEFAULT 0,
    next_seq     bigint NOT NULL DEFAULT 0,
    metadata     text NOT NULL DEFAULT '{}',
    "values"     text,
    interrupts   text,
    created_at   bigint NOT NULL,
    updated_at   bigint NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- A deleted thread leaves its fence behind: one that is made anew under the same id goes on from there,
-- so that nothing which still carries an old fence (a slot in Redis, a zombie) outranks it.
CREATE TABLE rc.deleted_threads (
    thread_id text COLLATE "C" PRIMARY KEY,
    fence     bigint NOT NULL
);

CREATE TABLE rc.runs (
    run_id              text COLLATE "C" PRIMARY KEY,
    kind                text NOT NULL DEFAULT 'run',
    thread_id           text COLLATE "C" NOT NULL,
    user_id             text COLLATE "C",
    assistant_id        text COLLATE "C",
    parent_run_id       text COLLATE "C",
    status              text NOT NULL DEFAULT 'pending',
    paused              boolean NOT NULL DEFAULT false,
    interrupts          text,
    holds_thread        boolean NOT NULL DEFAULT false,
    owner_epoch         bigint,
    home_epoch          bigint,  -- set where the run was admitted into the waiting line
    fence               bigint NOT NULL DEFAULT 0,
    seq                 bigint NOT NULL DEFAULT 0,
    attempt             bigint NOT NULL DEFAULT 1,
    portable            boolean NOT NULL DEFAULT false,
    multitask_strategy  text NOT NULL DEFAULT 'reject',
    on_disconnect       text NOT NULL DEFAULT 'cancel',
    not_before          bigint,
    deadline_at         bigint,
    idle_timeout_ms     bigint,
    queue_deadline_at   bigint,
    cancel_action       text,
    cancel_cause        text,
    cancel_reason       text,
    cancel_actor        text,
    cancel_requested_at bigint,
    cancel_delivered_at bigint,
    stopped_at          bigint,
    settled_at          bigint,
    rollback_ref        text,
    rollback_state      text,
    saved               boolean NOT NULL DEFAULT false,  -- the two below are what the thread had before the
    saved_values        text,                            -- run's first save; rollback_ref is opaque to SQL
    saved_interrupts    text,
    idempotency_key     text COLLATE "C",
    request_hash        text,
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
    created_at          text NOT NULL,
    created_us          bigint,
    started_at          bigint,
    ended_at            bigint,
    updated_at          bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- The slot of a thread: the database itself refuses a second holder.
CREATE UNIQUE INDEX runs_one_holder ON rc.runs (thread_id) WHERE holds_thread;
CREATE INDEX runs_owner    ON rc.runs (owner_epoch) WHERE holds_thread;
CREATE INDEX runs_tick     ON rc.runs (owner_epoch) WHERE settled_at IS NULL AND cancel_action IS NOT NULL;
CREATE INDEX runs_inflight ON rc.runs (thread_id, seq) WHERE holds_thread OR status IN ('pending', 'running');
CREATE INDEX runs_home     ON rc.runs (home_epoch) WHERE status = 'pending' AND NOT holds_thread;
CREATE INDEX runs_portable ON rc.runs (home_epoch) WHERE status = 'pending' AND NOT holds_thread AND portable;
CREATE INDEX runs_history  ON rc.runs (thread_id, created_us DESC NULLS LAST, run_id);
CREATE INDEX runs_recent   ON rc.runs (created_us DESC NULLS LAST, run_id);
CREATE UNIQUE INDEX runs_idempotency ON rc.runs (idempotency_key, COALESCE(user_id, ''), thread_id)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE rc.transitions (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id       text COLLATE "C" NOT NULL,
    thread_id    text COLLATE "C" NOT NULL,
    at           bigint NOT NULL,
    what         text NOT NULL,
    from_status  text,
    to_status    text NOT NULL,
    holds_thread boolean NOT NULL,
    cause        text,
    actor        text,
    epoch        bigint,
    fence        bigint NOT NULL,
    detail       text
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);

CREATE INDEX transitions_run ON rc.transitions (run_id, id);

-- Who stands where, as every decision is answered.
CREATE TYPE rc.standing AS (
    run_id text, thread_id text, status text, settled_at bigint, owner_epoch bigint, home_epoch bigint,
    fence bigint, cancel_action text, cancel_cause text, cancel_reason text, cancel_actor text, error text
);

-- What a row may be, and the audit of what becomes of it. One trigger for both, and no CHECK, no WHEN:
-- PostgreSQL compiles each of those anew for every statement, which was a third of what a run cost.
CREATE FUNCTION rc.audit_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.kind NOT IN ('run', 'op')
       OR NEW.status NOT IN ('pending', 'running', 'success', 'error', 'timeout', 'interrupted')
       OR NEW.holds_thread AND (NEW.owner_epoch IS NULL OR NEW.settled_at IS NOT NULL) THEN
        RAISE EXCEPTION 'not a run: %', NEW.run_id USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO rc.transitions (run_id, thread_id, at, what, to_status, holds_thread, actor, epoch, fence)
    VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at,
            CASE WHEN NEW.holds_thread THEN 'admitted' WHEN NEW.home_epoch IS NOT NULL THEN 'queued' ELSE 'recorded' END,
            NEW.status, NEW.holds_thread, NEW.user_id, COALESCE(NEW.owner_epoch, NEW.home_epoch), NEW.fence);
    RETURN NULL;
END $$;

CREATE TRIGGER runs_audit_insert AFTER INSERT ON rc.runs FOR EACH ROW EXECUTE FUNCTION rc.audit_insert();

CREATE FUNCTION rc.audit_update() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_ended boolean := NEW.status NOT IN ('pending', 'running');
BEGIN
    IF OLD.status <> NEW.status AND (OLD.status NOT IN ('pending', 'running') OR NEW.status = 'pending') THEN
        RAISE EXCEPTION 'a terminal status is final and running never goes back to pending'
            USING ERRCODE = 'check_violation';
    ELSIF v_ended AND NEW.status NOT IN ('success', 'error', 'timeout', 'interrupted')
          OR NEW.holds_thread AND (NEW.owner_epoch IS NULL OR NEW.settled_at IS NOT NULL) THEN
        RAISE EXCEPTION 'not a run: %', NEW.run_id USING ERRCODE = 'check_violation';
    ELSIF OLD.status = NEW.status AND OLD.holds_thread = NEW.holds_thread
          AND OLD.owner_epoch IS NOT DISTINCT FROM NEW.owner_epoch AND OLD.fence = NEW.fence THEN
        RETURN NULL;
    END IF;
    INSERT INTO rc.transitions (run_id, thread_id, at, what, from_status, to_status, holds_thread,
                                cause, actor, epoch, fence, detail)
    VALUES (NEW.run_id, NEW.thread_id, NEW.updated_at,
            CASE WHEN NEW.holds_thread AND NOT OLD.holds_thread THEN 'claimed'
                 WHEN OLD.status <> NEW.status AND NEW.status = 'running' THEN 'started'
                 WHEN OLD.status <> NEW.status AND NEW.settled_at IS NOT NULL THEN 'finished'
                 WHEN OLD.status <> NEW.status THEN 'decided'
                 WHEN OLD.holds_thread AND NOT NEW.holds_thread THEN 'settled'
                 WHEN OLD.owner_epoch IS DISTINCT FROM NEW.owner_epoch THEN 'adopted'
                 ELSE 'fenced' END,
            OLD.status, NEW.status, NEW.holds_thread,
            CASE WHEN v_ended THEN NEW.cancel_cause END, CASE WHEN v_ended THEN NEW.cancel_actor END,
            COALESCE(NEW.owner_epoch, NEW.home_epoch), NEW.fence, CASE WHEN v_ended THEN NEW.cancel_reason END);
    RETURN NULL;
END $$;

CREATE TRIGGER runs_audit_update AFTER UPDATE OF status, holds_thread, owner_epoch, fence, settled_at ON rc.runs
FOR EACH ROW EXECUTE FUNCTION rc.audit_update();
