-- The runs of a thread in the order in which they took it: a stream of the thread continues behind the fence of its last event.
CREATE INDEX runs_started ON rc.runs (thread_id, fence) WHERE fence > 0 AND kind = 'run';
