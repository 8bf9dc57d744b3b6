"""Where a server keeps its runs, if it is told nothing else; the other commands look there too."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from coordinator.gateway.server.failures import CannotServe

_FOLDER = Path(".coordinator")
_FILE = "runs.db"


def data_folder() -> Path:
    """Below the working folder; only its owner may look into it. Raises CannotServe."""
    try:
        _FOLDER.mkdir(mode=0o700, exist_ok=True)
        (_FOLDER / ".gitignore").write_text("*\n")
    except OSError as error:
        raise CannotServe(
            f"cannot keep runs in {_FOLDER.absolute()}: {error.strerror}",
            "Start in a folder that may be written to, or name a store: --store sqlite:////path/to/runs.db",
        ) from None
    return _FOLDER.absolute()


def store_in(folder: Path) -> str:
    return f"sqlite:///{quote(str(folder / _FILE))}"


def store_of_a_server() -> str | None:
    """Of the one that was started in this folder. A store that is named comes first, and so does a runs.db
    here, which is every command's own default."""
    if "COORDINATOR_STORE" in os.environ or Path(_FILE).exists():
        return None
    return store_in(_FOLDER) if (_FOLDER / _FILE).exists() else None
