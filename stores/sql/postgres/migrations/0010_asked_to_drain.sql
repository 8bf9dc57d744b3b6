-- Who is wanted to drain, since when (us), and with how much grace; NULL = as its own setting says.

ALTER TABLE rc.workers ADD COLUMN drain_asked_at bigint;
ALTER TABLE rc.workers ADD COLUMN drain_grace_ms bigint;
