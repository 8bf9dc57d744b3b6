"""Identity of this process as a worker: worker id, host, pid, version."""

from __future__ import annotations

import os
import re
import socket
import uuid
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from stores.host import boot_id
from stores.rows import NewWorker, WorkerRow

_SLOT = re.compile(r"-w(\d+)-\d+-[0-9a-f]{6}$")
_slot: int | None = None


@cache
def program_version() -> str:
    try:
        return version("run-coordinator")
    except PackageNotFoundError:
        return "unknown"


def take_slot(number: int) -> None:
    """Sets the number (from 1) that this process has among the workers of one server. Must be called before
    the worker registers."""
    global _slot  # noqa: PLW0603 - of the process, as its id and its host are
    _slot = number


def slot_of(worker_id: str) -> int | None:
    """Returns the number in the worker id, or None if the worker is not one of a server."""
    match = _SLOT.search(worker_id)
    return None if match is None else int(match[1])


def name_of(worker: WorkerRow) -> str:
    """Returns the name of a worker for people, which is the same in every log line and list."""
    slot = slot_of(worker.worker_id)
    name = worker.worker_id.rpartition("-")[0] if slot is None else f"{slot} of {worker.host}"
    return f"worker {name} (epoch {worker.epoch}, pid {worker.pid})"


def new_worker(ttl: float, assistants: tuple[str, ...] = (), *, command: str = "") -> NewWorker:
    """Returns the row with which this process registers. The worker id is for people; the epoch identifies
    the worker. `command`: name of the CLI command that registers, which prefixes the worker id."""
    host = socket.gethostname()
    slot = "" if _slot is None else f"w{_slot}-"
    return NewWorker(
        worker_id=f"{command and command + '-'}{host}-{slot}{os.getpid()}-{uuid.uuid4().hex[:6]}",
        host=host,
        boot_id=boot_id(),
        pid=os.getpid(),
        version=program_version(),
        ttl_ms=int(ttl * 1000),
        assistants=assistants,
    )
