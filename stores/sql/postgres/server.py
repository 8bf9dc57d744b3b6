"""Requirements on a server and its database, independent of the schema."""

from __future__ import annotations

from stores.errors import StoreRefused
from stores.sql.postgres.calls import Connection

OLDEST = 15
ISOLATION = "read committed"
"""A write reads its worker's row after it has waited for the worker's lock. Under a stricter isolation its
snapshot is older than the lock: the write of a worker that was declared dead meanwhile would be accepted."""
_SETTINGS = (
    "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000,"
    " current_setting('server_encoding'), current_setting('default_transaction_isolation')"
)


async def check(cx: Connection) -> None:
    """Raises StoreRefused where the store cannot keep its promises."""
    version, major, encoding, isolation = await cx.fetchrow(_SETTINGS)
    if major < OLDEST:
        raise StoreRefused(f"The server is PostgreSQL {version}: {OLDEST} or newer is needed")
    if encoding != "UTF8":
        raise StoreRefused(
            f"The encoding of the database is {encoding}, which cannot hold every text: create one with"
            " ENCODING 'UTF8' TEMPLATE template0"
        )
    if isolation != ISOLATION:
        raise StoreRefused(
            f"default_transaction_isolation is {isolation!r} for this role or database, and the session"
            f" cannot set it: ALTER ROLE … SET default_transaction_isolation = '{ISOLATION}'"
        )
