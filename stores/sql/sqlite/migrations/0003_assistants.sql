-- Which assistants a worker has: a JSON array of names. Whoever knows the assistant of a waiting portable
-- run may take it over once its home is gone.
ALTER TABLE workers ADD COLUMN assistants TEXT NOT NULL DEFAULT '[]';
