"""Assistants, which execute runs, and the storage of thread state. The ports are in `ports`."""
