"""Groups of commands: their order in the help, and suggestions for unknown names."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperGroup

from coordinator.cli.options import EXIT_CODES, HELP_OPTIONS

ORDER = (
    "serve", "dev", "runs", "threads", "explain", "workers", "crons", "webhooks", "projections", "keys", "db",
    "reconcile", "prune", "demo",
)  # fmt: skip


Click = Any
"""Any: contexts and commands are of the click that typer brings."""


class OrderedGroup(TyperGroup):
    def list_commands(self, ctx: Click) -> list[str]:
        """Commands in the order of ORDER; others are last."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def parse_args(self, ctx: Click, args: list[str]) -> Click:
        """Options of commands are refused before the command, with their place."""
        option = args[0].partition("=")[0] if args else ""
        if option.startswith("--") and option not in _options_of(self, ctx) and not ctx.resilient_parsing:
            paths = [path for path, command in _below(self, ctx) if option in _options_of(command, ctx)]
            named = [path for path in paths if set(path.split()) <= set(args)]
            if paths:
                command = f"{ctx.command_path} {[*named, *paths][0]}"
                ctx.fail(f"No such option: {option}. It stands behind the command: {command} {option}")
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Click, args: list[str]) -> Click:
        name = args[0]
        if name not in self.commands and not name.startswith("-") and not ctx.resilient_parsing:
            near = nearest(name, self.commands)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {near!r}?" if near else ""))
        return super().resolve_command(ctx, args)


def _below(group: Click, ctx: Click) -> Iterator[tuple[str, Click]]:
    """The commands of a group and of its groups, with their names from this group on."""
    for name in group.list_commands(ctx):
        command = group.commands[name]
        if hasattr(command, "commands"):
            yield from ((f"{name} {path}", each) for path, each in _below(command, ctx))
        else:
            yield name, command


def _options_of(command: Click, ctx: Click) -> set[str]:
    return {name for each in command.get_params(ctx) for name in (*each.opts, *each.secondary_opts)}


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
