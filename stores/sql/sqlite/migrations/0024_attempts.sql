-- A run whose worker dies may be continued by another worker, as often as `retries` allows. Between two attempts the run is
-- open, holds its thread, and has stopped.
ALTER TABLE runs ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;

CREATE INDEX runs_handed_over ON runs (owner_epoch) WHERE holds_thread AND stopped_at IS NOT NULL;
