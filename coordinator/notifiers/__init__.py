"""Adapters of `coordinator.notifier`."""
