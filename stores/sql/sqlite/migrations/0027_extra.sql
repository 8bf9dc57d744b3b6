-- Fields of the gateway's own, a JSON object.
ALTER TABLE runs ADD COLUMN extra TEXT NOT NULL DEFAULT '{}';
