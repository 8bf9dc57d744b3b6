-- The state that a run leaves on its thread is kept in its row: `checkpointed` says that it wrote one. It is the run's
-- result, or else checkpoint_values.
ALTER TABLE runs ADD COLUMN checkpointed INTEGER NOT NULL DEFAULT 0 CHECK (checkpointed IN (0, 1));
ALTER TABLE runs ADD COLUMN checkpoint_values TEXT;

CREATE INDEX runs_checkpoints ON runs (thread_id, fence) WHERE checkpointed;
