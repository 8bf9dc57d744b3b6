-- A page is read in the order of runs_recent. Functions are made anew after a migration.
DROP FUNCTION IF EXISTS rc.prune_runs(bigint, text, bigint, bigint, bigint, boolean, bigint);
