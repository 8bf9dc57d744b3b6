"""Shipped for tests, demos and benchmarks of what is built on the coordinator."""
