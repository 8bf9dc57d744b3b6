-- Of tables nothing: `admit_many` takes idempotency keys, too.

SELECT 1;
