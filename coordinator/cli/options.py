"""Options shared by commands, and the settings built from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

import typer

from coordinator.cli.failures import USAGE, CommandFailed, as_json, note

if TYPE_CHECKING:
    from coordinator.settings import Settings

HELP_OPTIONS: dict[str, list[str]] = {"help_option_names": ["-h", "--help"]}

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 usage, 3 store or Redis unreachable."

Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        envvar="COORDINATOR_STORE",
        help="Store: sqlite:///path (four slashes for an absolute path) or postgresql://host/database."
        " Default: sqlite:///runs.db, or the store of `coordinator serve` in this folder; required if both"
        " exist",
    ),
]
Redis = Annotated[
    str | None,
    typer.Option(
        "--redis",
        metavar="URL",
        envvar="COORDINATOR_REDIS",
        help="Redis, which speeds up cancels and streams; optional",
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
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout; errors as JSON on stderr")
]


User = Annotated[str | None, typer.Option("--user", metavar="ID", help="Only of this user")]
Assistant = Annotated[str | None, typer.Option("--assistant", metavar="NAME", help="Only of this assistant")]
Metadata = Annotated[
    list[str] | None,
    typer.Option("--metadata", metavar="KEY=VALUE", help="Only with this metadata; repeatable"),
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="Maximum number")]


@dataclass(frozen=True, slots=True)
class Deployment:
    """Options that select the deployment; None = the environment, then the default."""

    store: str | None = None
    redis: str | None = None
    namespace: str | None = None

    def settings(self) -> Settings:
        """Prints the store on stderr if no option or variable selects it, except with --json and where it
        does not exist, which the error names. Raises CommandFailed (usage) for an invalid option or
        COORDINATOR_… variable."""
        from pydantic import ValidationError

        from coordinator.cli.serve.folder import server_store
        from coordinator.settings import Settings, broken_rule, empty_variable

        if self.store == "":  # typer ignores an empty variable
            raise CommandFailed("InvalidSetting", "--store is empty", "Give a URL, or omit it.", code=USAGE)
        options: dict[str, Any] = {  # Any: those of typer.Option
            "store": self.store or server_store(),
            "redis": self.redis,
            "namespace": self.namespace,
        }
        given = {name: value for name, value in options.items() if value is not None}
        try:
            settings = Settings(**given)
        except ValidationError as error:
            if (broken := broken_rule(Settings, error)) is not None:
                rule, names = broken
                variables = ", ".join(f"COORDINATOR_{name.upper()}" for name in names)
                raise CommandFailed(
                    "InvalidSetting", rule, f"Change one of them: {variables}.", code=USAGE
                ) from None
            first = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(str(part) for part in first["loc"]) or "settings"
            if (empty := empty_variable(Settings, name, given)) is not None:
                raise _empty(name, *empty) from None
            option = f"--{name}, or from " if name in given else ""
            raise CommandFailed(
                "InvalidSetting",
                f"{name}: {first['msg']}",
                f"It comes from {option}COORDINATOR_{name.upper()}.",
                code=USAGE,
                argument=name,
            ) from None
        if not settings.store and (empty := empty_variable(Settings, "store", given)) is not None:
            raise _empty("store", *empty)
        if self.store is None and not as_json.get() and _exists(settings.store):
            note(f"store {settings.shown_store}")
        return settings


def _empty(name: str, fault: str, remedy: str) -> CommandFailed:
    return CommandFailed("InvalidSetting", fault, f"{remedy}.", code=USAGE, argument=name)


def _exists(url: str) -> bool:
    """Whether a default store exists, which is an SQLite file."""
    return Path(unquote(url.removeprefix("sqlite:///"))).exists()
