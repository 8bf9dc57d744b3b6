-- What clients see of threads beside their values: how long they are kept, and when their state changed.
-- `temporary`: made for one run by the server, and left out of listings.
ALTER TABLE rc.threads ADD COLUMN ttl_ms bigint;
ALTER TABLE rc.threads ADD COLUMN temporary boolean NOT NULL DEFAULT false;
ALTER TABLE rc.threads ADD COLUMN state_updated_at bigint;

-- A column, and not an expression in the index: NULL stays NULL for a thread without a time to live, so that
-- a run, which changes updated_at, leaves every index of its thread alone.
ALTER TABLE rc.threads ADD COLUMN expires_at bigint GENERATED ALWAYS AS (updated_at + ttl_ms * 1000) STORED;

UPDATE rc.threads SET state_updated_at = updated_at WHERE "values" IS NOT NULL;

-- Listings read one user's threads, or all. Their time of creation never changes; a temporary thread is in
-- neither.
CREATE INDEX threads_of_user ON rc.threads (user_id, created_at, thread_id) WHERE NOT temporary;
CREATE INDEX threads_recent ON rc.threads (created_at, thread_id) WHERE NOT temporary;

-- What may have expired is found by its moment. Only threads with a time to live are in it.
CREATE INDEX threads_expiry ON rc.threads (expires_at) WHERE expires_at IS NOT NULL;

-- JSON that was kept as text, for containment. What jsonb cannot hold (U+0000, half of a pair) is another
-- character there; NULL where it is no JSON.
CREATE FUNCTION rc.as_jsonb(_text text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
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

CREATE INDEX threads_metadata ON rc.threads USING gin (rc.as_jsonb(metadata) jsonb_path_ops)
    WHERE metadata <> '{}';

-- When the fence that a removed temporary thread has left in deleted_threads may go as well.
CREATE TABLE rc.passing_fences (
    forget_at bigint NOT NULL,
    thread_id text COLLATE "C" NOT NULL,
    fence     bigint NOT NULL,
    PRIMARY KEY (forget_at, thread_id)
);
