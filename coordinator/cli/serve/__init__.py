"""`coordinator serve` and `dev`: what they need on this machine, and what they say at the start."""
