"""`coordinator serve` and `coordinator dev`: a supervisor, and worker processes that share its port."""
