"""Programs that give up root for another user once they have imported what they need."""

from __future__ import annotations

import os
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from coordinator.cli import app
from coordinator.gateway import keys

UID = GID = 65534
"""Of a user that owns nothing on the machine."""


def become_other() -> None:
    os.setgroups([])
    os.setgid(GID)
    os.setuid(UID)


def command_line() -> int:
    _import_all()
    become_other()
    return app.run(sys.argv[1:])


def _import_all() -> None:
    """By both ways that a command may end. The other user may not be able to read this Python."""
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()):
        file = str(Path(folder) / "keys.json")
        app.run(["keys", "create", "--file", file, "--user", "alice"])
        for key in (out.getvalue().strip(), "unknown"):
            app.run(["keys", "revoke", "--file", file, key])


def watch_key() -> int:
    """FILE KEY GRACE: a line for each change of whether a gateway takes the key, with the time (monotonic,
    s). Ends when the key is refused."""
    file, key, good_for = sys.argv[1:]
    become_other()
    keys.GRACE = float(good_for)
    known = keys.Keys(Path(file))
    sys.stdout.write(f"good {time.monotonic()}\n")
    sys.stdout.flush()
    while known.caller_of(key) is not None:
        time.sleep(0.01)
    sys.stdout.write(f"refused {time.monotonic()}\n")
    return 0
