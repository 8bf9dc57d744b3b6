-- The lock on a worker's state comes last in every transaction. `make_room`, which no worker calls, takes it.
DROP FUNCTION IF EXISTS rc.make_room(
    boolean, text, text, text, text, text, boolean, bigint, bigint, bigint
);
