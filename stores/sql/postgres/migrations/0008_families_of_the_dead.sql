-- `end_orphan` also answers whom the run has taken along. And an admission that is refused has written nothing,
-- though somebody's time had come.

DROP FUNCTION IF EXISTS rc.end_orphan(text, text, bigint, bigint, text, boolean, bigint, bigint);
