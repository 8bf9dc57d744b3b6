-- Batches have functions of their own from here on (functions/a_batches.sql); those for one run wait for locks.
DROP FUNCTION IF EXISTS rc.admit(
    bigint, boolean, text, text, text, text, text, text, text, boolean, text, text, text, text, text, text,
    bigint, text, bigint, bigint, bigint, boolean, boolean, bigint, bigint, text, text, bigint, bigint, bigint,
    bigint, bigint, boolean
);
DROP FUNCTION IF EXISTS rc.make_thread(text, boolean);
DROP FUNCTION IF EXISTS rc.asked_before(text, text, text, text, text, boolean);
DROP FUNCTION IF EXISTS rc.make_room(
    boolean, text, text, text, text, text, boolean, bigint, bigint, bigint, boolean
);
DROP FUNCTION IF EXISTS rc.start(text, bigint, bigint, text, boolean, text, text, bigint, boolean);
DROP FUNCTION IF EXISTS rc.finish(
    text, text, bigint, bigint, boolean, text, text, text, text, boolean, text, bigint, bigint, bigint, boolean
);

-- The audit once for each statement, however many rows it wrote: that is what a batch saves. Such a trigger sees
-- every update, and knows no list of columns: what changes nothing of the kind costs it one look.
DROP TRIGGER runs_audit_insert ON rc.runs;
DROP TRIGGER runs_audit_update ON rc.runs;

CREATE OR REPLACE FUNCTION rc.audit_insert() RETURNS trigger LANGUAGE plpgsql AS $$
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

-- A hash, whatever the function around it says: what a statement wrote has no index.
CREATE OR REPLACE FUNCTION rc.audit_update() RETURNS trigger LANGUAGE plpgsql SET enable_hashjoin = on AS $$
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
