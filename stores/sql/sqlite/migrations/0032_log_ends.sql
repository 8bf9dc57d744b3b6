-- Where the event log of a run ends: the number of its last entry under the run's fence, as its owner knew it when it settled
-- the run. 0 = the run emitted nothing; NULL = unknown.
ALTER TABLE runs ADD COLUMN log_end INTEGER;
