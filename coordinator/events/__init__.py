"""The writer and the readers of a run's event log."""
