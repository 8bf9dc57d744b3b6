"""Adapters of `coordinator.lock`."""
