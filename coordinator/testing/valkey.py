"""A Redis-compatible server for tests that need a real one, out of a wheel (extra `embedded`)."""

from coordinator.servers.valkey import ServerError, ValkeyServer

__all__ = ["ServerError", "ValkeyServer"]
