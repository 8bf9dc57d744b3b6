-- Assistants that clients create: a registered assistant (graph_id) with a configuration. The row has the content of its
-- latest version.
CREATE TABLE rc.assistants (
    assistant_id text COLLATE "C" PRIMARY KEY,
    user_id      text COLLATE "C",
    graph_id     text COLLATE "C" NOT NULL,
    name         text COLLATE "C" NOT NULL,
    description  text,
    config       text NOT NULL,             -- JSON, as context and metadata
    context      text NOT NULL,
    metadata     text NOT NULL,
    version      bigint NOT NULL,
    created_at   bigint NOT NULL,
    updated_at   bigint NOT NULL,
    revision     bigint NOT NULL DEFAULT 1  -- of the row, compared by change
);

CREATE INDEX assistants_of_user ON rc.assistants (user_id, created_at);

CREATE TABLE rc.assistant_versions (
    assistant_id text COLLATE "C" NOT NULL,
    version      bigint NOT NULL,
    graph_id     text COLLATE "C" NOT NULL,
    name         text COLLATE "C" NOT NULL,
    description  text,
    config       text NOT NULL,
    context      text NOT NULL,
    metadata     text NOT NULL,
    created_at   bigint NOT NULL,
    PRIMARY KEY (assistant_id, version)
);
