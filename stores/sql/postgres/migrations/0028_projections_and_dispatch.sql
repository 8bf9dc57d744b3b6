-- Changes of runs that wait for the projections of a deployment. Both tables stay empty where there is none.
CREATE TABLE rc.projections (
    name          text COLLATE "C" PRIMARY KEY,
    filled_to     text COLLATE "C",  -- runs up to this id have been queued; NULL = all that existed
    claimed_by    bigint,            -- the epoch that delivers
    claimed_until bigint,
    created_at    bigint NOT NULL
);

CREATE TABLE rc.run_changes (
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    projection text COLLATE "C" NOT NULL,
    run_id     text COLLATE "C" NOT NULL,
    thread_id  text COLLATE "C" NOT NULL,
    at         bigint NOT NULL,
    what       text NOT NULL,  -- as in transitions; or existing, amended, deleted
    attempts   bigint NOT NULL DEFAULT 0,
    next_at    bigint,         -- a delivery has failed: the changes of its thread wait until then
    error      text
) WITH (autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX run_changes_order ON rc.run_changes (projection, seq);
CREATE INDEX run_changes_failed ON rc.run_changes (projection, thread_id) WHERE next_at IS NOT NULL;
CREATE INDEX run_changes_run ON rc.run_changes (run_id);

-- Each change of one run waits for the row lock of the one before, so its numbers grow in the order of commits.
CREATE FUNCTION rc.project_transitions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rc.run_changes (projection, run_id, thread_id, at, what)
        SELECT p.name, w.run_id, w.thread_id, w.at, w.what FROM written w, rc.projections p ORDER BY w.id;
    RETURN NULL;
END $$;

CREATE TRIGGER transitions_projected AFTER INSERT ON rc.transitions REFERENCING NEW TABLE AS written
FOR EACH STATEMENT EXECUTE FUNCTION rc.project_transitions();

CREATE FUNCTION rc.project_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rc.run_changes (projection, run_id, thread_id, at, what)
        SELECT name, OLD.run_id, OLD.thread_id, OLD.updated_at, TG_ARGV[0] FROM rc.projections;
    RETURN NULL;
END $$;

-- Counters and the like of a run that has settled: they have no audit.
CREATE TRIGGER runs_amended AFTER UPDATE ON rc.runs FOR EACH ROW WHEN (OLD.settled_at IS NOT NULL)
EXECUTE FUNCTION rc.project_run('amended');

CREATE TRIGGER runs_deleted AFTER DELETE ON rc.runs FOR EACH ROW WHEN (OLD.kind = 'run')
EXECUTE FUNCTION rc.project_run('deleted');

-- Without a projection, a run costs nothing more: rc.switch_projecting.
ALTER TABLE rc.transitions DISABLE TRIGGER transitions_projected;
ALTER TABLE rc.runs DISABLE TRIGGER runs_amended;
ALTER TABLE rc.runs DISABLE TRIGGER runs_deleted;

-- Workers that admit runs for others. Such a run waits without a home, which its audit names as queued.
ALTER TABLE rc.workers ADD COLUMN admits_only boolean NOT NULL DEFAULT false;
ALTER TYPE rc.admission ADD ATTRIBUTE dispatched boolean;  -- any worker that knows the assistant may take the thread

CREATE OR REPLACE FUNCTION rc.audit_insert() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_wrong text;
BEGIN
    SELECT run_id INTO v_wrong FROM written
        WHERE kind NOT IN ('run', 'op')
           OR status NOT IN ('pending', 'running', 'success', 'error', 'timeout', 'interrupted')
           OR holds_thread AND (owner_epoch IS NULL OR settled_at IS NOT NULL);
    IF FOUND THEN
        RAISE EXCEPTION 'not a run: %', v_wrong USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO rc.transitions (run_id, thread_id, at, what, to_status, holds_thread, actor, epoch, fence)
    SELECT run_id, thread_id, updated_at,
        CASE WHEN holds_thread AND started_at IS NOT NULL THEN 'started' WHEN holds_thread THEN 'admitted'
             WHEN not_before IS NOT NULL THEN 'delayed'
             WHEN owner_epoch IS NULL AND (home_epoch IS NOT NULL OR portable) THEN 'queued' ELSE 'recorded' END,
        status, holds_thread, user_id, COALESCE(owner_epoch, home_epoch), fence
    FROM written ORDER BY run_id;
    RETURN NULL;
END $$;
