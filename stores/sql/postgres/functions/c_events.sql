-- Event logs. Rows of logs are locked in the order of their runs' ids, after the worker: a transaction that waits for
-- such a row holds no lock that a change of a worker's state needs, and one that holds such a row waits for nothing.

-- Events of many runs, each run once; `_of` names by their places whose event each is. Answers by place: 'done', 'stale'
-- (another fence, or its worker is dead), 'gone' (unknown run); `followed` by a worker that is not its own.
-- The commit does not wait for the disk: events that a power cut destroys show as a gap.
CREATE OR REPLACE FUNCTION rc.append_events(
    _runs text[], _fences bigint[], _floor_fences bigint[], _floors bigint[],
    _of bigint[], _numbers bigint[], _modes text[], _texts text[], _ttl bigint, _now bigint
) RETURNS TABLE (place bigint, kept text, followed boolean) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_now bigint := rc.clock(_now);
    v_end bigint := v_now + _ttl;
    v_log record;
    v_size bigint;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM rc.lock_worker(o.owner_epoch) FROM (
        SELECT DISTINCT owner_epoch FROM rc.runs WHERE run_id = ANY (_runs) AND owner_epoch IS NOT NULL ORDER BY 1
    ) o;
    RETURN QUERY
    WITH call AS (
        SELECT a.place, a.run_id, a.fence,
            CASE WHEN r.run_id IS NULL THEN 'gone'
                 WHEN r.fence = a.fence AND w.state <> 'dead' THEN 'done' ELSE 'stale' END AS kept
        FROM unnest(_runs, _fences) WITH ORDINALITY a (run_id, fence, place)
        LEFT JOIN rc.runs r ON r.run_id = a.run_id LEFT JOIN rc.workers w ON w.epoch = r.owner_epoch
    ), entries AS (
        SELECT a.run_id, a.fence, e.number, e.mode, e.json
        FROM unnest(_of, _numbers, _modes, _texts) e (place, number, mode, json)
        JOIN call a ON a.place = e.place AND a.kept = 'done'
    ), fresh AS (
        INSERT INTO rc.run_events (run_id, fence, number, mode, json) SELECT * FROM entries
        ON CONFLICT (run_id, fence, number) DO NOTHING RETURNING run_id, octet_length(json)::bigint AS size
    ), logs AS (
        INSERT INTO rc.event_logs AS l (run_id, fence, number, bytes, expires_at, followed_until)
        SELECT e.run_id, e.fence, max(e.number),
            COALESCE((SELECT sum(f.size) FROM fresh f WHERE f.run_id = e.run_id), 0)::bigint, v_end, 0
        FROM entries e GROUP BY e.run_id, e.fence ORDER BY e.run_id
        ON CONFLICT (run_id) DO UPDATE SET fence = excluded.fence, bytes = l.bytes + excluded.bytes,
            number = CASE WHEN l.fence = excluded.fence THEN GREATEST(l.number, excluded.number) ELSE excluded.number END,
            expires_at = CASE WHEN excluded.expires_at - l.expires_at >= _ttl / 16 THEN excluded.expires_at
                              ELSE l.expires_at END
        RETURNING l.run_id, l.followed_until
    )
    SELECT a.place, a.kept, COALESCE(l.followed_until > v_now, false)
    FROM call a LEFT JOIN logs l ON l.run_id = a.run_id ORDER BY a.place;

    -- Events below the floor, and events of later fences that a restored store contains.
    FOR v_log IN
        SELECT a.run_id, a.fence, a.floor_fence, a.floor
        FROM unnest(_runs, _fences, _floor_fences, _floors) a (run_id, fence, floor_fence, floor)
        JOIN rc.runs r ON r.run_id = a.run_id AND r.fence = a.fence
        JOIN rc.workers w ON w.epoch = r.owner_epoch AND w.state <> 'dead'
        WHERE (a.floor_fence, a.floor) > (0, 0)
           OR EXISTS (SELECT FROM rc.run_events e WHERE e.run_id = a.run_id AND e.fence > a.fence)
    LOOP
        WITH old AS (
            DELETE FROM rc.run_events e WHERE e.run_id = v_log.run_id
                AND ((e.fence, e.number) < (v_log.floor_fence, v_log.floor) OR e.fence > v_log.fence)
            RETURNING octet_length(e.json) AS size
        )
        SELECT sum(size) INTO v_size FROM old;
        UPDATE rc.event_logs l SET bytes = bytes - v_size WHERE l.run_id = v_log.run_id AND v_size > 0;
    END LOOP;
END $$;

-- Runs that are followed: for `_for` us a settled one is not removed with its thread; a log of one that has not settled
-- reports that to its owner. A locked row is in use, and left out.
CREATE OR REPLACE FUNCTION rc.follow_runs(_runs text[], _for bigint, _logs boolean, _now bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_until bigint := rc.clock(_now) + _for;
    v_threads text[];
BEGIN
    v_threads := ARRAY(
        SELECT t.thread_id FROM rc.threads t
        WHERE t.expires_at < v_until AND t.thread_id IN (
            SELECT r.thread_id FROM rc.runs r WHERE r.run_id = ANY (_runs) AND r.settled_at IS NOT NULL)
        FOR NO KEY UPDATE SKIP LOCKED);
    UPDATE rc.threads SET updated_at = GREATEST(updated_at, v_until - ttl_ms * 1000)
        WHERE thread_id = ANY (v_threads);
    IF _logs THEN
        PERFORM set_config('synchronous_commit', 'off', true);
        INSERT INTO rc.event_logs AS l (run_id, fence, number, bytes, expires_at, followed_until)
        SELECT r.run_id, r.fence, 0, 0, v_until, v_until FROM rc.runs r
        WHERE r.run_id = ANY (_runs) AND r.settled_at IS NULL ORDER BY r.run_id
        ON CONFLICT (run_id) DO UPDATE SET followed_until = GREATEST(l.followed_until, v_until),
            expires_at = GREATEST(l.expires_at, v_until);
    END IF;
END $$;

-- Remove about `_limit` events at most whose time to live has passed; returns how many. Where all logs have more than
-- `_max_bytes` (null: no limit), those that were silent for longest end now.
CREATE OR REPLACE FUNCTION rc.expire_events(_limit bigint, _max_bytes bigint, _now bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_now bigint := rc.clock(_now);
    v_log record;
    v_gone bigint;
    v_removed bigint := 0;
BEGIN
    FOR v_log IN SELECT run_id FROM rc.event_logs WHERE expires_at <= v_now ORDER BY expires_at, run_id LIMIT _limit
        FOR UPDATE SKIP LOCKED
    LOOP
        DELETE FROM rc.run_events WHERE run_id = v_log.run_id AND (fence, number) IN (
            SELECT fence, number FROM rc.run_events WHERE run_id = v_log.run_id ORDER BY fence, number
            LIMIT _limit - v_removed);
        GET DIAGNOSTICS v_gone = ROW_COUNT;
        IF v_gone < _limit - v_removed THEN
            DELETE FROM rc.event_logs WHERE run_id = v_log.run_id;
        END IF;
        v_removed := v_removed + v_gone;
        EXIT WHEN v_removed >= _limit;
    END LOOP;
    IF (SELECT sum(bytes) FROM rc.event_logs WHERE expires_at > v_now) > _max_bytes THEN
        UPDATE rc.event_logs SET expires_at = v_now WHERE run_id IN (
            SELECT run_id FROM rc.event_logs JOIN (
                SELECT run_id, sum(bytes) OVER (ORDER BY expires_at DESC, run_id DESC) AS kept FROM rc.event_logs
                WHERE expires_at > v_now AND bytes > 0
            ) k USING (run_id) WHERE kept > _max_bytes FOR UPDATE OF event_logs SKIP LOCKED);
    END IF;
    RETURN v_removed;
END $$;
