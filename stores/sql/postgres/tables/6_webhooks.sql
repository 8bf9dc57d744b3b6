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
