"""Where the workers of one server keep what they count, so that any of them answers for all.

Known to whoever starts workers, so without the libraries that workers need.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client looks at it when it is imported, `Metrics` when it is made."""


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
    with tempfile.TemporaryDirectory(prefix="coordinator-metrics-") as folder:
        os.environ[VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[VARIABLE]
