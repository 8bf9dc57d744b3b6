-- The state that a run leaves on its thread is kept in its row: `checkpointed` says that it wrote one. It is the run's
-- result, or else checkpoint_values.
ALTER TABLE rc.runs ADD COLUMN checkpointed boolean NOT NULL DEFAULT false;
ALTER TABLE rc.runs ADD COLUMN checkpoint_values text;

CREATE INDEX runs_checkpoints ON rc.runs (thread_id, fence) WHERE checkpointed;
