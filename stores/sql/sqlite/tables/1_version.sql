-- The schema on SQLite, as it is created: version 20, of the files of this folder in the order of their numbers. Later
-- versions are numbered files in migrations/.
--
-- stores/sql/postgres/tables is the same schema on PostgreSQL; tests/unit/test_schema_files.py lists what differs.
--
-- * Times are microseconds since 1970 (UTC) by the store's clock, unless the name ends in _ms.
-- * JSON is kept as text, byte for byte.
-- * No table has a foreign key: an audit line, a webhook and a fence outlive the row that they name.

CREATE TABLE schema_version (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,  -- of the file
    applied_at TEXT NOT NULL,
    oldest     INTEGER         -- the schema version that a program must know to work on this one (ADR 0047)
);
