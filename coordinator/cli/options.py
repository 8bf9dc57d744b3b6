"""The options that commands share, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli.failures import USAGE, CommandFailed

if TYPE_CHECKING:
    from coordinator.settings import Settings

HELP_OPTIONS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 usage, 3 store or Redis unreachable."

Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        envvar="COORDINATOR_STORE",
        help="Store, as sqlite:///path (four slashes for an absolute one) or postgresql://host/database."
        " Default: sqlite:///runs.db, or that of `coordinator serve` in this folder; where both"
        " are there, one has to be named",
    ),
]
Redis = Annotated[
    str | None,
    typer.Option(
        "--redis",
        metavar="URL",
        envvar="COORDINATOR_REDIS",
        help="Redis, which makes cancels and streams fast; commands work without it",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        metavar="NAME",
        envvar="COORDINATOR_NAMESPACE",
        help="Prefix of every Redis key. Default: rc",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, errors too on stderr")]


User = Annotated[str | None, typer.Option("--user", metavar="ID", help="Only this user's")]
Assistant = Annotated[str | None, typer.Option("--assistant", metavar="NAME", help="Only of this assistant")]
Metadata = Annotated[
    list[str] | None,
    typer.Option(
        "--metadata", metavar="KEY=VALUE", help="Only with this in their metadata; repeat it for several"
    ),
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many")]


@dataclass(frozen=True, slots=True)
class Where:
    """Which deployment a command is about; None = the environment, then the default."""

    store: str | None = None
    redis: str | None = None
    namespace: str | None = None

    def settings(self) -> Settings:
        """Raises CommandFailed (usage) where an option or a COORDINATOR_… variable is of no use."""
        from pydantic import ValidationError

        from coordinator.cli.serve.folder import store_of_a_server
        from coordinator.settings import Settings, broken_rule

        named: dict[str, Any] = {
            "store": self.store or store_of_a_server(),
            "redis": self.redis,
            "namespace": self.namespace,
        }
        given = {name: value for name, value in named.items() if value is not None}
        try:
            return Settings(**given)
        except ValidationError as error:
            if (broken := broken_rule(Settings, error)) is not None:
                rule, names = broken
                places = ", ".join(f"COORDINATOR_{name.upper()}" for name in names)
                raise CommandFailed(
                    "InvalidSetting", rule, f"Change one of them: {places}.", code=USAGE
                ) from None
            first = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(str(part) for part in first["loc"]) or "settings"
            option = f"--{name}, or from " if name in given else ""
            raise CommandFailed(
                "InvalidSetting",
                f"{name}: {first['msg']}",
                f"It comes from {option}COORDINATOR_{name.upper()}.",
                code=USAGE,
                argument=name,
            ) from None
