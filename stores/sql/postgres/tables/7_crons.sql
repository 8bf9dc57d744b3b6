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
