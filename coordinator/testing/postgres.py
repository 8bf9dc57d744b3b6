"""A PostgreSQL server for tests that need a real one, of this machine or out of a wheel (`embedded`)."""

from coordinator.servers.postgres import PostgresServer

__all__ = ["PostgresServer"]
