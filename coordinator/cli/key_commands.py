"""The commands of `coordinator keys` and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.options import EXIT_CODES, HELP_OPTIONS, AsJson, Store

keys = typer.Typer(
    help="API keys of the gateway: make, list and revoke them.",
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
        help="The file of API keys, as the gateway has it in --api-keys",
    ),
]


@keys.command("create", epilog=EXIT_CODES)
def keys_create(
    *,
    file: KeyFile,
    role: Annotated[
        str,
        typer.Option("--role", metavar="reader|user|admin", help="What it may do"),
    ] = "user",
    user: Annotated[str | None, typer.Option("--user", metavar="ID", help="Whose threads it is for")] = None,
    everyone: Annotated[
        bool, typer.Option("--everyone", help="A reader of everybody's threads, and of the metrics")
    ] = False,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="What it is for, to tell it from others")
    ] = "",
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="AGE", help="After that it is no key: 12h, 90d"),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Make a key and print it: once, for the file keeps only its hash. Makes the file where there is none.

    The key is all that is on stdout. Gateways that have the file know the key within a second.
    """
    from coordinator.cli.keys import create_key

    return create_key(
        file, role=role, user=user, everyone=everyone, name=name, expires=expires, as_json=as_json
    )


@keys.command("list", epilog=EXIT_CODES)
def keys_list(*, file: KeyFile, as_json: AsJson = False) -> int:
    """The keys of the file: whose each is, what it may do, and until when."""
    from coordinator.cli.keys import list_keys

    return list_keys(file, as_json=as_json)


@keys.command("revoke", epilog=EXIT_CODES)
def keys_revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="As `keys list` shows it")],
    *,
    file: KeyFile,
    store: Store = None,
    as_json: AsJson = False,
) -> int:
    """Remove a key. Gateways refuse it within a second; streams that it opened go on to their end.

    If its user has no key left, the store is asked what goes on without one: crons that will fire, webhooks
    that will be sent, and the commands that stop them are shown. The key is revoked whether or not the store
    can be asked.
    """
    from coordinator.cli.keys import revoke_key

    return revoke_key(file, key, store=store, as_json=as_json)
