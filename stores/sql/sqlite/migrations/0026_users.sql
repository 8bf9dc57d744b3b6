-- What the authentication of the request has stated of the user, beside its id: permissions and attributes, as JSON. NULL =
-- nothing. Only for the worker that executes the run.
ALTER TABLE runs ADD COLUMN user_document TEXT;
ALTER TABLE crons ADD COLUMN user_document TEXT;
