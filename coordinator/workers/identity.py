"""Who this process is."""

from __future__ import annotations

import os
import socket
import uuid
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from stores.host import boot_id
from stores.rows import NewWorker


@cache
def program_version() -> str:
    try:
        return version("run-coordinator")
    except PackageNotFoundError:
        return "unknown"


def new_worker(ttl: float, assistants: tuple[str, ...] = (), *, command: str = "") -> NewWorker:
    """This process as it registers. The worker id is for people; the epoch is what counts.
    `command`: of the command line, which registers to end what others left."""
    host = socket.gethostname()
    return NewWorker(
        worker_id=f"{command and command + '-'}{host}-{os.getpid()}-{uuid.uuid4().hex[:6]}",
        host=host,
        boot_id=boot_id(),
        pid=os.getpid(),
        version=program_version(),
        ttl_ms=int(ttl * 1000),
        assistants=assistants,
    )
