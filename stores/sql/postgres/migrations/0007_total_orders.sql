-- Which rows of a batch come first, where many are due at the same moment, is not left to the server: the
-- functions order them by their id after their moment, and here are the indexes for it.

DROP INDEX rc.runs_due;
CREATE INDEX runs_due ON rc.runs (not_before, run_id)
    WHERE status = 'pending' AND NOT holds_thread AND not_before IS NOT NULL;

DROP INDEX rc.webhooks_due;
CREATE INDEX webhooks_due ON rc.webhooks (next_at, run_id) WHERE state = 'due';

DROP INDEX rc.webhooks_ended;
CREATE INDEX webhooks_ended ON rc.webhooks (ended_at, run_id) WHERE ended_at IS NOT NULL;

DROP INDEX rc.threads_expiry;
CREATE INDEX threads_expiry ON rc.threads (expires_at, thread_id) WHERE expires_at IS NOT NULL;
