"""Duties of a worker beside its runs: registration, lease, tick, sweep, drain, health."""
