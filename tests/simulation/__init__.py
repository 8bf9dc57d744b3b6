"""The real manager under a seeded scheduler. `make simulate`; see docs/guides/simulation.md."""
