"""`coordinator serve` and `dev`: supervisor process, data folder, embedded Redis, and banner."""
