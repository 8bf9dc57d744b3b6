-- Assistants that clients create: a registered assistant (graph_id) with a configuration. The row has the content of its
-- latest version.
CREATE TABLE assistants (
    assistant_id TEXT PRIMARY KEY NOT NULL,
    user_id      TEXT,
    graph_id     TEXT NOT NULL,
    name         TEXT NOT NULL,
    description  TEXT,
    config       TEXT NOT NULL,              -- JSON, as context and metadata
    context      TEXT NOT NULL,
    metadata     TEXT NOT NULL,
    version      INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    revision     INTEGER NOT NULL DEFAULT 1  -- of the row, compared by change
) STRICT;

CREATE INDEX assistants_of_user ON assistants (user_id, created_at);

CREATE TABLE assistant_versions (
    assistant_id TEXT NOT NULL,
    version      INTEGER NOT NULL,
    graph_id     TEXT NOT NULL,
    name         TEXT NOT NULL,
    description  TEXT,
    config       TEXT NOT NULL,
    context      TEXT NOT NULL,
    metadata     TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (assistant_id, version)
) STRICT, WITHOUT ROWID;
