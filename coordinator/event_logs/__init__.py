"""Adapters of `coordinator.event_log`."""
