-- Who declared the worker dead; NULL where it left by itself, or was found dead.
ALTER TABLE workers ADD COLUMN fenced_actor TEXT;
