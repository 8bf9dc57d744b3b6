-- Which assistants a worker has. Whoever knows the assistant of a waiting portable run may take it over
-- once its home is gone.
ALTER TABLE rc.workers ADD COLUMN assistants text[] NOT NULL DEFAULT '{}';
