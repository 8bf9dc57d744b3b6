-- A function that catches errors begins a subtransaction, which no worker of a parallel query may do before 17.
ALTER FUNCTION rc.as_jsonb(text) PARALLEL UNSAFE;
