-- Indexes of what a sweep looks for, and of a thread's runs in flight beside its slot. None of them has an entry for a
-- run that takes its thread at once.

-- Runs beside the slot, in flight or decided and not settled, by owner and by thread.
CREATE INDEX runs_beside ON runs (owner_epoch)
    WHERE NOT holds_thread AND owner_epoch IS NOT NULL AND settled_at IS NULL;
CREATE INDEX runs_beside_of_thread ON runs (thread_id)
    WHERE NOT holds_thread AND owner_epoch IS NOT NULL AND settled_at IS NULL;

-- Runs in flight that were imported: without owner, and not waiting.
CREATE INDEX runs_unowned ON runs (run_id)
    WHERE owner_epoch IS NULL
      AND (status = 'running' OR status = 'pending' AND home_epoch IS NULL AND NOT portable);

-- Waiting portable runs by assistant: a sweep asks for those that no live worker knows.
CREATE INDEX runs_of_assistant ON runs (COALESCE(assistant_id, ''))
    WHERE status = 'pending' AND NOT holds_thread AND portable;
