"""The data folder of `serve` and `dev`, whose store is the default of all commands in the same folder."""

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
    """Create and check the folder, below the working folder and private to its owner. Raises CannotServe."""
    try:
        _FOLDER.mkdir(mode=0o700, exist_ok=True)
        _check(_FOLDER)
        (_FOLDER / ".gitignore").write_text("*\n")
    except OSError as error:
        raise CannotServe(
            f"cannot keep runs in {_FOLDER.absolute()}: {error.strerror}",
            "Start in a writable folder, or give a store: --store sqlite:////path/to/runs.db",
        ) from None
    return _FOLDER.absolute()


def _check(folder: Path) -> None:
    """A folder writable by another user would let that user redirect writes and replace data. Raises
    CannotServe."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        why, hint = "is not a folder", "Move it away"
    elif status.st_uid != os.geteuid():
        why, hint = f"belongs to another user (uid {status.st_uid})", "Start as that user"
    elif status.st_mode & 0o077:
        why, hint = "is open to other users", f"Close it: chmod 700 {shlex.quote(str(folder.absolute()))}"
    else:
        return
    raise CannotServe(
        f"cannot keep runs in {folder.absolute()}: it {why}",
        f"{hint}, or give a store: --store sqlite:////path/to/runs.db",
    )


def store_in(folder: Path) -> str:
    return f"sqlite:///{quote(str(folder / _FILE))}"


def server_store() -> str | None:
    """Return the store of a server started in this folder; None if there was none, or COORDINATOR_STORE is
    set. A store of which other files are left (`stores.gate`) counts: its database was removed or moved, and
    another one must not be read in its place. Raises CommandFailed if the folder also contains a runs.db: the
    user must choose."""
    path = _FOLDER / _FILE
    if "COORDINATOR_STORE" in os.environ or not (path.exists() or Path(f"{path}-gate").exists()):
        return None
    if Path(_FILE).exists():
        from coordinator.cli.failures import USAGE, CommandFailed  # not imported in supervisors

        raise CommandFailed(
            "AmbiguousStore",
            f"this folder has two stores: {_FILE}, and {path} of `coordinator serve`",
            f"Choose one: --store sqlite:///{_FILE} or --store {store_in(_FOLDER)}",
            code=USAGE,
        )
    return store_in(_FOLDER)
