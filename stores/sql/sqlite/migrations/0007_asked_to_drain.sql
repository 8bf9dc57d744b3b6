-- Who is wanted to drain, since when (us), and with how much grace; NULL = as its own setting says.

ALTER TABLE workers ADD COLUMN drain_asked_at INTEGER;
ALTER TABLE workers ADD COLUMN drain_grace_ms INTEGER;
