"""The commands of `coordinator keys` and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.options import EXIT_CODES, HELP_OPTIONS, AsJson, Store

keys = typer.Typer(
    help="Create, list and revoke API keys of the gateway.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog=EXIT_CODES,
    context_settings=HELP_OPTIONS,
)

KeyFile = Annotated[
    Path,
    typer.Option(
        "--file",
        metavar="PATH",
        envvar="COORDINATOR_API_KEYS",
        help="File of API keys, as in --api-keys of the gateway",
    ),
]


@keys.command("create", epilog=EXIT_CODES)
def keys_create(
    *,
    file: KeyFile,
    role: Annotated[
        str,
        typer.Option("--role", metavar="reader|user|admin", help="Permissions of the key"),
    ] = "user",
    user: Annotated[
        str | None, typer.Option("--user", metavar="ID", help="The user whose threads it gives access to")
    ] = None,
    everyone: Annotated[
        bool, typer.Option("--everyone", help="Reader of the threads of all users and of the metrics")
    ] = False,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the key in lists")] = "",
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="AGE", help="Lifetime of the key: 12h, 90d"),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Create a key and print it on stdout, once: the file stores only its hash. Creates the file if needed.

    Gateways that use the file accept the key within a second.
    """
    from coordinator.cli.keys import create_key

    return create_key(
        file, role=role, user=user, everyone=everyone, name=name, expires=expires, as_json=as_json
    )


@keys.command("list", epilog=EXIT_CODES)
def keys_list(*, file: KeyFile, as_json: AsJson = False) -> int:
    """List the keys of the file: user, role, and expiry."""
    from coordinator.cli.keys import list_keys

    return list_keys(file, as_json=as_json)


@keys.command("revoke", epilog=EXIT_CODES)
def keys_revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key, as in `keys list`")],
    *,
    file: KeyFile,
    store: Store = None,
    as_json: AsJson = False,
) -> int:
    """Remove a key. Gateways refuse it within a second; streams opened with it continue to their end.

    If it was the last key of its user, the command shows the user's enabled crons and pending webhooks, and
    the commands that stop them. The key is revoked even if the store is unreachable.
    """
    from coordinator.cli.keys import revoke_key

    return revoke_key(file, key, store=store, as_json=as_json)
