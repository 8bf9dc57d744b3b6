"""The langgraph.json that `serve` and `dev` serve."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from coordinator.cli.failures import USAGE, CommandFailed

FILE_NAME = "langgraph.json"


def graphs_file(given: Path | None, assistants: str | None, *, search: bool = False) -> Path | None:
    """Return the absolute path of the file that `given` names: itself, or the one in that folder. With
    `search`, and if neither is given, the one in the working folder; None if there is none. Raises
    CommandFailed."""
    if given is None:
        path = Path(FILE_NAME)
        return _checked(path) if search and not assistants and path.is_file() else None
    if assistants:
        raise CommandFailed(
            "InvalidArgument",
            f"both {given} and --assistants {assistants} are given",
            "Give one of them; COORDINATOR_ASSISTANTS counts as --assistants",
            code=USAGE,
        )
    return _checked(given / FILE_NAME if given.is_dir() else given)


def _checked(path: Path) -> Path:
    if not path.is_file():
        raise CommandFailed(
            "InvalidArgument",
            f"there is no file {path}",
            'Create it: {"graphs": {"agent": "./agent.py:graph"}}',
            code=USAGE,
        )
    if path.suffix != ".json":
        raise CommandFailed(
            "InvalidArgument",
            f"{path} is not a langgraph.json",
            "Functions are served with --assistants MODULE:OBJECT",
            code=USAGE,
        )
    if find_spec("langgraph") is None:
        raise CommandFailed(
            "NotInstalled",
            "langgraph is not installed",
            "Install it with: pip install 'run-coordinator[gateway,langgraph]'",
            code=USAGE,
        )
    return path.resolve()
