-- The metadata of the thread of a run, where its admission creates the thread; NULL = the keys of `stamp` alone.
ALTER TYPE rc.admission ADD ATTRIBUTE fresh_metadata text;
