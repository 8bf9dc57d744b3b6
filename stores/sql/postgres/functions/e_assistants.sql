-- Assistants that clients create. Each change writes a version beside the row of the latest one.

-- No row = the id is in use.
CREATE OR REPLACE FUNCTION rc.create_assistant(
    _assistant_id text, _user_id text, _graph_id text, _name text, _description text, _config text, _context text,
    _metadata text, _now bigint
) RETURNS SETOF rc.assistants LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY INSERT INTO rc.assistants (assistant_id, user_id, graph_id, name, description, config, context, metadata,
        version, created_at, updated_at)
    VALUES (_assistant_id, _user_id, _graph_id, _name, _description, _config, _context, _metadata,
        1, rc.clock(_now), rc.clock(_now))
    ON CONFLICT (assistant_id) DO NOTHING RETURNING *;
    IF FOUND THEN
        PERFORM rc.keep_assistant_version(_assistant_id);
    END IF;
END $$;

-- The content of the row becomes its version.
CREATE OR REPLACE FUNCTION rc.keep_assistant_version(_assistant_id text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO rc.assistant_versions (assistant_id, version, graph_id, name, description, config, context, metadata,
        created_at)
    SELECT assistant_id, version, graph_id, name, description, config, context, metadata, updated_at
    FROM rc.assistants WHERE assistant_id = _assistant_id
$$;

CREATE OR REPLACE FUNCTION rc.change_assistant(
    _assistant_id text, _graph_id text, _name text, _description text, _config text, _context text, _metadata text,
    _revision bigint, _scope text, _now bigint
) RETURNS SETOF rc.assistants LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY UPDATE rc.assistants a SET graph_id = _graph_id, name = _name, description = _description,
        config = _config, context = _context, metadata = _metadata, updated_at = rc.clock(_now), revision = revision + 1,
        version = 1 + (SELECT max(v.version) FROM rc.assistant_versions v WHERE v.assistant_id = _assistant_id)
    WHERE assistant_id = _assistant_id AND revision = _revision AND (_scope IS NULL OR user_id = _scope) RETURNING *;
    IF FOUND THEN
        PERFORM rc.keep_assistant_version(_assistant_id);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION rc.set_assistant_version(_assistant_id text, _version bigint, _scope text, _now bigint)
RETURNS SETOF rc.assistants LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY UPDATE rc.assistants a SET graph_id = v.graph_id, name = v.name, description = v.description,
        config = v.config, context = v.context, metadata = v.metadata, version = v.version,
        updated_at = rc.clock(_now), revision = a.revision + 1
    FROM rc.assistant_versions v
    WHERE a.assistant_id = _assistant_id AND v.assistant_id = _assistant_id AND v.version = _version
      AND (_scope IS NULL OR a.user_id = _scope)
    RETURNING a.*;
END $$;

CREATE OR REPLACE FUNCTION rc.delete_assistant(_assistant_id text, _user_id text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM rc.assistants WHERE assistant_id = _assistant_id AND (_user_id IS NULL OR user_id = _user_id);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM rc.assistant_versions WHERE assistant_id = _assistant_id;
    RETURN true;
END $$;
