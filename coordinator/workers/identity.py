"""Who this process is."""

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
    """This process is the worker of that number, from 1, of a server with several. Before it registers."""
    global _slot  # noqa: PLW0603 - of the process, as its id and its host are
    _slot = number


def slot_of(worker_id: str) -> int | None:
    """None for a worker that no server has numbered."""
    found = _SLOT.search(worker_id)
    return None if found is None else int(found[1])


def name_of(worker: WorkerRow) -> str:
    """For people, the same in every log and list."""
    slot = slot_of(worker.worker_id)
    name = worker.worker_id.rpartition("-")[0] if slot is None else f"{slot} of {worker.host}"
    return f"worker {name} (epoch {worker.epoch}, pid {worker.pid})"


def new_worker(ttl: float, assistants: tuple[str, ...] = (), *, command: str = "") -> NewWorker:
    """This process as it registers. The worker id is for people; the epoch is what counts.
    `command`: of the command line, which registers to end what others left."""
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
