-- Webhooks: one row for each run that asked for one, written with the run. Whatever settles the run makes
-- it due, and keeps here what is to be sent: the run may be pruned or its thread deleted before it arrives.

CREATE TABLE rc.webhooks (
    run_id      text COLLATE "C" PRIMARY KEY,
    thread_id   text COLLATE "C" NOT NULL,
    user_id     text COLLATE "C",
    url         text NOT NULL,
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'due', 'delivered', 'dead')),
    attempts    bigint NOT NULL DEFAULT 0,
    next_at     bigint,  -- while due: not to be claimed before; a claim moves it on by its lease
    claimed_by  bigint,
    status_code bigint,  -- of the last attempt
    error       text,    -- of the last attempt
    created_at  bigint NOT NULL,
    due_at      bigint,
    ended_at    bigint,
    run         text,    -- the run as it settled: a JSON object, without what has a column of its own
    metadata    text,
    kwargs      text,
    "values"    text,
    interrupts  text,
    CHECK ((state = 'due') = (next_at IS NOT NULL)),
    CHECK ((state IN ('delivered', 'dead')) = (ended_at IS NOT NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX webhooks_due ON rc.webhooks (next_at) WHERE state = 'due';
CREATE INDEX webhooks_ended ON rc.webhooks (ended_at) WHERE ended_at IS NOT NULL;

-- A trigger makes it due, because a run is settled in many ways (its owner, a cancel, the reaper, a repair)
-- and none may forget it: the one that is there, which every run passes through anyway.
CREATE OR REPLACE FUNCTION rc.audit_update() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_ended boolean := NEW.status NOT IN ('pending', 'running');
BEGIN
    IF OLD.status <> NEW.status AND (OLD.status NOT IN ('pending', 'running') OR NEW.status = 'pending') THEN
        RAISE EXCEPTION 'a terminal status is final and running never goes back to pending'
            USING ERRCODE = 'check_violation';
    ELSIF v_ended AND NEW.status NOT IN ('success', 'error', 'timeout', 'interrupted')
          OR NEW.holds_thread AND (NEW.owner_epoch IS NULL OR NEW.settled_at IS NOT NULL) THEN
        RAISE EXCEPTION 'not a run: %', NEW.run_id USING ERRCODE = 'check_violation';
    END IF;
    IF OLD.settled_at IS NULL AND NEW.settled_at IS NOT NULL THEN
        UPDATE rc.webhooks SET state = 'due', due_at = NEW.settled_at, next_at = NEW.settled_at,
            run = json_build_object('assistant_id', NEW.assistant_id, 'status', NEW.status,
                'multitask_strategy', NEW.multitask_strategy, 'error', NEW.error,
                'cancel_action', NEW.cancel_action, 'cancel_cause', NEW.cancel_cause,
                'cancel_reason', NEW.cancel_reason, 'created_at', NEW.created_at,
                'started_at', NEW.started_at, 'ended_at', NEW.ended_at, 'updated_at', NEW.updated_at),
            metadata = NEW.metadata, kwargs = NEW.kwargs, interrupts = NEW.interrupts,
            "values" = CASE WHEN NEW.status = 'success' AND NEW.result IS NOT NULL THEN NEW.result
                            ELSE (SELECT t."values" FROM rc.threads t WHERE t.thread_id = NEW.thread_id) END
        WHERE run_id = NEW.run_id AND state = 'waiting';
    END IF;
    IF OLD.status = NEW.status AND OLD.holds_thread = NEW.holds_thread
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

-- It has more parameters from here on: the URL of a webhook, and what a cron asks for.
DROP FUNCTION IF EXISTS rc.admit(
    bigint, boolean, text, text, text, text, text, text, text, boolean, text, text, text, text, text, text,
    bigint, text, bigint, bigint, bigint, boolean, boolean, bigint, bigint, bigint, bigint, bigint, boolean
);

-- Crons: what is run again and again, and when next. Null = never again. Schedules are computed elsewhere.
CREATE TABLE rc.crons (
    cron_id          text COLLATE "C" PRIMARY KEY,
    user_id          text COLLATE "C",
    assistant_id     text COLLATE "C" NOT NULL,
    thread_id        text COLLATE "C",
    schedule         text NOT NULL,
    timezone         text,
    enabled          boolean NOT NULL,
    end_at           bigint,
    on_run_completed text,
    payload          text NOT NULL,
    metadata         text NOT NULL,
    next_at          bigint,
    last_at          bigint,
    last_run_id      text COLLATE "C",
    last_error       text,
    created_at       bigint NOT NULL,
    updated_at       bigint NOT NULL,
    version          bigint NOT NULL DEFAULT 1
);

CREATE INDEX crons_due ON rc.crons (next_at, assistant_id) WHERE enabled AND next_at IS NOT NULL;
CREATE INDEX crons_of_user ON rc.crons (user_id, created_at);
CREATE INDEX crons_of_thread ON rc.crons (thread_id) WHERE thread_id IS NOT NULL;
