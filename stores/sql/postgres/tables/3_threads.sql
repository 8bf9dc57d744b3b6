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
