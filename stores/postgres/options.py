"""The options of a store's connections."""

from __future__ import annotations

from dataclasses import dataclass

from stores.sql.postgres.schema import SCHEMA_NAME


@dataclass(frozen=True, slots=True)
class Options:
    """`schema`: the schema with the tables. `connections`: how many a store has for calls that may wait;
    batches, cancels and the heartbeat have their own besides. `statement_cache=0`: for a pooler in
    transaction mode that does not track prepared statements; then the server's time-outs have to be set for
    the role. `busy_timeout` (s) bounds the wait for a lock or a connection, `away_timeout` the search for a
    server. `search_timeout` (s) bounds each search, and three times that its wait for others. `host_gate`:
    the folder of a file by which workers of this host prove that they live; None = no proof."""

    schema: str = "coordinator"
    connections: int = 10
    statement_cache: int = 200
    busy_timeout: float = 30.0
    away_timeout: float = 5.0
    host_gate: str | None = None
    search_timeout: float = 2.0

    def __post_init__(self) -> None:
        if SCHEMA_NAME.fullmatch(self.schema) is None:
            raise ValueError(f"{self.schema!r} is no name of a schema: lower case, digits and _, not pg_…")
