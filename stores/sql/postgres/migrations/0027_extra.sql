-- Fields of the gateway's own, a JSON object.
ALTER TABLE rc.runs ADD COLUMN extra text NOT NULL DEFAULT '{}';
ALTER TYPE rc.admission ADD ATTRIBUTE extra text;
