"""Which functions a schema has. Each installation records its revision and a fingerprint of every function in
a comment that only the schema's owner can write, and that programs without revisions do not read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from stores.sql.postgres.calls import Connection
from stores.sql.postgres.scripts import functions_of_migrations, named, revision, revisions

_COMMENTED = "rc.schema_version.name"
_READ = "SELECT col_description(to_regclass(quote_ident($1) || '.schema_version'), 2)"
_FINGERPRINTS = (
    "SELECT proname || '(' || pg_get_function_identity_arguments(oid) || ')',"
    " left(md5(pg_get_functiondef(oid)), 16)"
    " FROM pg_proc WHERE pronamespace = to_regnamespace(quote_ident($1)) AND prokind = 'f' ORDER BY 1"
)


class Installed(NamedTuple):
    revision: str
    fingerprints: dict[str, str]
    """Fingerprints by signature."""

    @property
    def newer(self) -> bool:
        """The functions are of a newer program than this one."""
        return self.revision not in (*revisions(), revision())


async def recorded(cx: Connection, schema: str) -> Installed | None:
    """None: the functions are of a program that records nothing, and older than this one."""
    comment: str | None = await cx.fetchval(_READ, schema)
    try:
        return Installed(**json.loads(comment or "null"))
    except (TypeError, ValueError):
        return None


async def outdated(cx: Connection, schema: str) -> bool:
    """The recorded functions are of an older program than this one."""
    record = await recorded(cx, schema)
    return record is None or not (record.newer or record.revision == revision())


async def differences(cx: Connection, schema: str) -> dict[str, str]:
    """The functions that are not as they were installed: signature -> "is missing" or "was changed".
    Within a transaction, whose search_path it changes."""
    record = await recorded(cx, schema)
    if record is None:
        return {}
    installed = await _fingerprints(cx, schema)
    return {
        signature: "was changed" if signature in installed else "is missing"
        for signature, fingerprint in record.fingerprints.items()
        if installed.get(signature) != fingerprint
    }


async def install(cx: Connection, schema: str, scripts: Sequence[str], *, repair: Sequence[str] = ()) -> None:
    """Make all functions anew and record them; of those in `repair` (signatures) also the ones that only
    migrations make. Within a transaction, whose search_path it changes."""
    for signature in repair:
        for script in functions_of_migrations().get(signature.partition("(")[0], ()):
            await cx.execute(named(script, schema))
    for script in scripts:
        await cx.execute(named(script, schema))
    made = Installed(revision(), await _fingerprints(cx, schema))
    comment = await cx.fetchval("SELECT quote_literal($1)", json.dumps(made._asdict()))
    await cx.execute(f"COMMENT ON COLUMN {named(_COMMENTED, schema)} IS {comment}")


async def _fingerprints(cx: Connection, schema: str) -> dict[str, str]:
    # Definitions leave out the names of the schemas that are in the path.
    await cx.execute("SET LOCAL search_path = pg_catalog")
    return dict(await cx.fetch(_FINGERPRINTS, schema))
