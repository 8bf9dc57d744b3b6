-- A run whose worker dies may be continued by another worker, as often as `retries` allows. Between two attempts the run is
-- open, holds its thread, and has stopped.
ALTER TABLE rc.runs ADD COLUMN retries bigint NOT NULL DEFAULT 0;
ALTER TYPE rc.admission ADD ATTRIBUTE retries bigint;

CREATE INDEX runs_handed_over ON rc.runs (owner_epoch) WHERE holds_thread AND stopped_at IS NOT NULL;
