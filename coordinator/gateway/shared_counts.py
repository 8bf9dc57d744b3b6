"""The folder in which the workers of one server keep their counts, so that any of them answers for all.

Known to the supervisor, so without the libraries that workers need. A supervisor that was killed leaves its
folder behind; the next one on this machine removes it.
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
"""prometheus_client looks at it when it is imported, `Metrics` when it is made."""

_PREFIX = "coordinator-counts-"
_UNLOCKED = "coordinator-new-counts-"
"""Until the lock is taken, so that no other supervisor takes a new folder for one that was left behind."""


def shared_folder() -> str | None:
    """None = this process answers for itself."""
    return os.environ.get(VARIABLE)


def share_in(folder: str | None) -> None:
    """In a worker that was started before the folder was named."""
    if folder is not None:
        os.environ[VARIABLE] = folder


@contextmanager
def shared_between_workers() -> Generator[None]:
    """Before they are started. A folder that the environment names already is left as it is."""
    if VARIABLE in os.environ:
        yield
        return
    place = Path(tempfile.gettempdir())
    _remove_left_behind(place)
    with _locked_folder(place) as folder:
        os.environ[VARIABLE] = str(folder)
        try:
            yield
        finally:
            del os.environ[VARIABLE]


@contextmanager
def _locked_folder(place: Path) -> Generator[Path]:
    """The kernel frees the lock with the process, however that ends; workers do not inherit it."""
    new = Path(tempfile.mkdtemp(prefix=_UNLOCKED, dir=place))
    folder = new.with_name(new.name.replace(_UNLOCKED, _PREFIX, 1))
    descriptor = _lock(new)
    new.rename(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _remove_left_behind(place: Path) -> None:
    for folder in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another supervisor removes it at this moment
            if folder.stat(follow_symlinks=False).st_uid != os.geteuid():
                continue
            if (descriptor := _lock(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(descriptor)
                logger.info("removed %s, which a server that was killed has left behind", folder)


def _lock(folder: Path) -> int | None:
    """An open descriptor that holds it; None where another process does. Raises OSError."""
    import fcntl  # noqa: PLC0415 - not on Windows, where there is no supervisor

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
