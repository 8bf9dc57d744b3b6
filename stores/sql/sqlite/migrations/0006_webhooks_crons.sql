-- Webhooks: one row for each run that asked for one, written with the run. Whatever settles the run makes
-- it due, and keeps here what is to be sent: the run may be pruned or its thread deleted before it arrives.

CREATE TABLE webhooks (
    run_id      TEXT PRIMARY KEY NOT NULL,
    thread_id   TEXT NOT NULL,
    user_id     TEXT,
    url         TEXT NOT NULL,
    state       TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'due', 'delivered', 'dead')),
    attempts    INTEGER NOT NULL DEFAULT 0,
    next_at     INTEGER,  -- while due: not to be claimed before; a claim moves it on by its lease
    claimed_by  INTEGER,
    status_code INTEGER,  -- of the last attempt
    error       TEXT,     -- of the last attempt
    created_at  INTEGER NOT NULL,
    due_at      INTEGER,
    ended_at    INTEGER,
    run         TEXT,     -- the run as it settled: a JSON object, without what has a column of its own
    metadata    TEXT,
    kwargs      TEXT,
    "values"    TEXT,
    interrupts  TEXT,
    CHECK ((state = 'due') = (next_at IS NOT NULL)),
    CHECK ((state IN ('delivered', 'dead')) = (ended_at IS NOT NULL))
) STRICT;

CREATE INDEX webhooks_due ON webhooks (next_at) WHERE state = 'due';
CREATE INDEX webhooks_ended ON webhooks (ended_at) WHERE ended_at IS NOT NULL;

-- A trigger, because a run is settled in many ways (its owner, a cancel, the reaper, a repair) and none may
-- forget it. JSON columns are copied as they are: what cannot be parsed must not keep a run from ending.
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

-- Crons: what is run again and again, and when next. NULL = never again. Schedules are computed elsewhere.
CREATE TABLE crons (
    cron_id          TEXT PRIMARY KEY NOT NULL,
    user_id          TEXT,
    assistant_id     TEXT NOT NULL,
    thread_id        TEXT,
    schedule         TEXT NOT NULL,
    timezone         TEXT,
    enabled          INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    end_at           INTEGER,
    on_run_completed TEXT,
    payload          TEXT NOT NULL,
    metadata         TEXT NOT NULL,
    next_at          INTEGER,
    last_at          INTEGER,
    last_run_id      TEXT,
    last_error       TEXT,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    version          INTEGER NOT NULL DEFAULT 1
) STRICT;

CREATE INDEX crons_due ON crons (next_at, assistant_id) WHERE enabled = 1 AND next_at IS NOT NULL;
CREATE INDEX crons_of_user ON crons (user_id, created_at);
CREATE INDEX crons_of_thread ON crons (thread_id) WHERE thread_id IS NOT NULL;
