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
