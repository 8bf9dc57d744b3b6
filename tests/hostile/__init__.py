"""Hostile requests against a real server: `make hostile`.

Each request is generated from the seed and its number, and is sent as raw bytes, because client libraries
would correct it. No response may be a 5xx of the server, no failure may be logged, and afterwards the same
processes work as before."""
