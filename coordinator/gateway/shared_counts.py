"""The folder in which the workers of one server share their metrics, so that each of them can expose all.

The supervisor imports this module, so it does not import the libraries of workers. The folder of a supervisor
that was killed is removed by the next supervisor on the machine.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger("coordinator.serve")

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client reads it when it is imported, `Metrics` in its constructor."""

_PREFIX = "coordinator-counts-"
_UNLOCKED = "coordinator-new-counts-"
"""Prefix of a folder until it is locked, so that other supervisors do not remove it as stale."""


def shared_folder() -> str | None:
    """Returns the folder, or None if this process exposes only its own metrics."""
    return os.environ.get(VARIABLE)


def share_in(folder: str | None) -> None:
    """Sets the folder in a worker that was spawned before the folder was created."""
    if folder is not None:
        os.environ[VARIABLE] = folder


@contextmanager
def shared_between_workers() -> Generator[None]:
    """Creates the folder for the workers that are started in the block. If the environment already names a
    folder, that one is used and not removed."""
    if VARIABLE in os.environ:
        yield
        return
    parent = Path(tempfile.gettempdir())
    _remove_stale(parent)
    with _locked_folder(parent) as folder:
        os.environ[VARIABLE] = str(folder)
        try:
            yield
        finally:
            del os.environ[VARIABLE]


@contextmanager
def _locked_folder(parent: Path) -> Generator[Path]:
    """Creates a folder and locks it. The kernel releases the lock when the process ends; workers do not
    inherit it."""
    unlocked = Path(tempfile.mkdtemp(prefix=_UNLOCKED, dir=parent))
    folder = unlocked.with_name(unlocked.name.replace(_UNLOCKED, _PREFIX, 1))
    descriptor = _lock(unlocked)
    unlocked.rename(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _remove_stale(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another supervisor may remove it concurrently
            if folder.stat(follow_symlinks=False).st_uid != os.geteuid():
                continue
            if (descriptor := _lock(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(descriptor)
                logger.info("removed %s, the metrics folder of a server that was killed", folder)


def _lock(folder: Path) -> int | None:
    """Returns an open descriptor that holds the lock, or None if another process holds it. Raises OSError."""
    import fcntl  # noqa: PLC0415 - not on Windows, where there is no supervisor

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
