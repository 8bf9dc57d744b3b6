-- Due webhooks by user, for claims in which users take turns.
CREATE INDEX webhooks_due_of_user ON rc.webhooks (user_id, next_at, run_id) WHERE state = 'due';
