"""Starters of a Redis-compatible server and of PostgreSQL, for `coordinator serve`, the demo and tests."""
