-- Indexes of what a sweep, a tick and a page of runs in flight look for. But for runs_open none of them has an entry for
-- a run that takes its thread at once.

-- Runs in flight in the order of their ids: a page costs what is on it.
CREATE INDEX runs_open ON rc.runs (run_id) WHERE holds_thread OR status IN ('pending', 'running');

-- Runs beside the slot, in flight or decided and not settled, by owner and by thread.
CREATE INDEX runs_beside ON rc.runs (owner_epoch)
    WHERE NOT holds_thread AND owner_epoch IS NOT NULL AND settled_at IS NULL;
CREATE INDEX runs_beside_of_thread ON rc.runs (thread_id)
    WHERE NOT holds_thread AND owner_epoch IS NOT NULL AND settled_at IS NULL;

-- Runs in flight that were imported: without owner, and not waiting.
CREATE INDEX runs_unowned ON rc.runs (run_id)
    WHERE owner_epoch IS NULL
      AND (status = 'running' OR status = 'pending' AND home_epoch IS NULL AND NOT portable);

-- Waiting portable runs by home, 0 = at home nowhere, and by assistant. Expressions have statistics of these rows alone;
-- those of the columns are of all runs, and mislead the planner.
DROP INDEX rc.runs_portable;
CREATE INDEX runs_portable ON rc.runs ((COALESCE(home_epoch, 0)))
    WHERE status = 'pending' AND NOT holds_thread AND portable;
CREATE INDEX runs_of_assistant ON rc.runs ((COALESCE(assistant_id, '')))
    WHERE status = 'pending' AND NOT holds_thread AND portable;

-- Waiting runs by user, for the limit of each user.
CREATE INDEX runs_waiting_of_user ON rc.runs (user_id) WHERE status = 'pending' AND NOT holds_thread;
