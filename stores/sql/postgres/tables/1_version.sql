-- The schema on PostgreSQL, as it is created: version 20, of the files of this folder in the order of their numbers. Later
-- versions are numbered files in migrations/.
--
-- `rc` stands for the schema's own name, which the program puts in its place. stores/sql/sqlite/tables is the same
-- schema on SQLite; tests/unit/test_schema_files.py lists what differs.
--
-- * Times are microseconds since 1970 (UTC) by the store's clock, unless the name ends in _ms.
-- * JSON is kept as text, byte for byte: jsonb has no U+0000 and does not keep the order of keys.
-- * Ids are compared by code point (COLLATE "C"), whatever the database's locale is.
-- * No table has a foreign key: an audit line, a webhook and a fence outlive the row that they name.

CREATE TABLE rc.schema_version (
    version    integer PRIMARY KEY,
    name       text NOT NULL,  -- of the file; the column's comment records the installed functions (ADR 0037)
    applied_at text NOT NULL,
    oldest     integer         -- the schema version that a program must know to work on this one (ADR 0047)
);

COMMENT ON TABLE rc.schema_version IS 'run-coordinator';  -- so that it differs from another program's table
