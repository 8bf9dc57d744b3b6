"""Groups of commands: their order in the help, and suggestions for unknown names."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperGroup

from coordinator.cli.options import EXIT_CODES, HELP_OPTIONS

ORDER = (
    "serve", "dev", "runs", "threads", "explain", "workers", "crons", "webhooks", "projections", "keys", "db",
    "reconcile", "prune", "demo",
)  # fmt: skip


class OrderedGroup(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:  # Any: as click has it
        """OrderedGroup in the order of ORDER; others are last."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # Any: as click has it
        name = args[0]
        if name not in self.commands and not name.startswith("-") and not ctx.resilient_parsing:
            near = nearest(name, self.commands)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {near!r}?" if near else ""))
        return super().resolve_command(ctx, args)


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the shortest name with the prefix `name`, else the most similar name."""
    longer = [one for one in known if len(name) > 1 and one.startswith(name)]
    return next(iter([*sorted(longer, key=len), *get_close_matches(name, known, n=1)]), None)


def group(summary: str) -> typer.Typer:
    """Create a group with plain help: importing rich takes longer than --help may take."""
    return typer.Typer(
        cls=OrderedGroup,
        help=summary,
        no_args_is_help=True,
        rich_markup_mode=None,
        epilog=EXIT_CODES,
        context_settings=HELP_OPTIONS,
    )
