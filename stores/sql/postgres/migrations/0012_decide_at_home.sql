-- `decide` asks where the run is at home from here on.
DROP FUNCTION IF EXISTS rc.decide(text, text, text, text, text, text, text, boolean, bigint);
