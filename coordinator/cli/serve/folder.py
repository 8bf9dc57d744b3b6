"""Where a server keeps its runs, if it is told nothing else; the other commands look there too."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from urllib.parse import quote

from coordinator.gateway.server.failures import CannotServe

_FOLDER = Path(".coordinator")
_FILE = "runs.db"


def data_folder() -> Path:
    """Below the working folder; only its owner may look into it. Raises CannotServe."""
    try:
        _FOLDER.mkdir(mode=0o700, exist_ok=True)
        _check(_FOLDER)
        (_FOLDER / ".gitignore").write_text("*\n")
    except OSError as error:
        raise CannotServe(
            f"cannot keep runs in {_FOLDER.absolute()}: {error.strerror}",
            "Start in a folder that may be written to, or name a store: --store sqlite:////path/to/runs.db",
        ) from None
    return _FOLDER.absolute()


def _check(folder: Path) -> None:
    """Another user that can write there can have this process write elsewhere, and replace what it reads.
    Raises CannotServe."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        why, hint = "is not a folder", "Move it away"
    elif found.st_uid != os.geteuid():
        why, hint = f"belongs to another user (uid {found.st_uid})", "Start as that user"
    elif found.st_mode & 0o077:
        why, hint = "is open to other users", f"Close it: chmod 700 {shlex.quote(str(folder.absolute()))}"
    else:
        return
    raise CannotServe(
        f"cannot keep runs in {folder.absolute()}: it {why}",
        f"{hint}, or name a store: --store sqlite:////path/to/runs.db",
    )


def store_in(folder: Path) -> str:
    return f"sqlite:///{quote(str(folder / _FILE))}"


def store_of_a_server() -> str | None:
    """Of the one that was started in this folder; None where there is none, or a store is named. Raises
    CommandFailed where a runs.db lies here as well: which of the two is meant only the user knows."""
    kept = _FOLDER / _FILE
    if "COORDINATOR_STORE" in os.environ or not kept.exists():
        return None
    if Path(_FILE).exists():
        from coordinator.cli.failures import USAGE, CommandFailed  # a supervisor does without

        raise CommandFailed(
            "AmbiguousStore",
            f"this folder has two stores, {_FILE} and {kept}, which is that of `coordinator serve`",
            f"Name the one that you mean: --store sqlite:///{_FILE} or --store {store_in(_FOLDER)}",
            code=USAGE,
        )
    return store_in(_FOLDER)
