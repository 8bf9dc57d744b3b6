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
