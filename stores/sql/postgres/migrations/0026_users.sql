-- What the authentication of the request has stated of the user, beside its id: permissions and attributes, as JSON. NULL =
-- nothing. Only for the worker that executes the run.
ALTER TABLE rc.runs ADD COLUMN user_document text;
ALTER TYPE rc.admission ADD ATTRIBUTE user_document text;
ALTER TABLE rc.crons ADD COLUMN user_document text;
