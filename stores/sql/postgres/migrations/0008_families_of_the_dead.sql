-- `end_orphan` also answers whom the run has taken along.

DROP FUNCTION IF EXISTS rc.end_orphan(text, text, bigint, bigint, text, boolean, bigint, bigint);
