-- Due webhooks by user, for claims in which users take turns.
CREATE INDEX webhooks_due_of_user ON webhooks (user_id, next_at, run_id) WHERE state = 'due';

-- Waiting runs by user, for the limit of each user. No entry for a run that takes its thread at once.
CREATE INDEX runs_waiting_of_user ON runs (user_id) WHERE status = 'pending' AND NOT holds_thread;
