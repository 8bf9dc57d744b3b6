"""The gate file of this user's workers on this host, for all databases.

PostgreSQL proves no death, and a lease takes its time to end; but the operating system knows whether a
process on the same machine lives. See `stores.gate` and `stores.life_proofs`.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
import tempfile
from pathlib import Path

from stores import gate as gates
from stores.host import boot_id
from stores.life_proofs import LifeProofs

logger = logging.getLogger(__name__)

_FILE = "workers"
_BYTES = 1 << 40  # 0 and this one have a meaning of their own
_DRAWS = 8


def folder_of(setting: str) -> str | None:
    """`auto`: a folder of this user's in the temporary directory. `off`, and where the platform has no gates:
    None."""
    if setting == "off" or not hasattr(os, "geteuid"):
        return None
    if setting != "auto":
        return setting
    return str(Path(tempfile.gettempdir()) / f"run-coordinator-{os.geteuid()}")


class HostGate:
    """Bytes are drawn at random instead of being epochs, so that databases and their copies can share the
    file."""

    def __init__(self, gate: gates.FileGate, boot: str) -> None:
        self._gate = gate
        # A copy of the file, as in containers of one image, has the same token and locks of its own.
        file = os.stat(gate.path)  # noqa: PTH116 - the path is a text
        self.proofs = LifeProofs(gate, f"{boot}:{file.st_dev}:{file.st_ino}:{gate.token}")
        self._held: dict[int, int] = {}

    def begin(self) -> int:
        """Hold a byte that no other worker holds; before its row can be seen. Raises OSError."""
        for _ in range(_DRAWS):
            byte = 1 + secrets.randbelow(_BYTES - 1)
            try:
                if not self._gate.is_live(byte):
                    self._gate.live(byte)
                    return byte
            except BlockingIOError:
                continue
        raise BlockingIOError("no byte of the gate file is free")

    def registered(self, epoch: int, byte: int) -> None:
        """The worker that holds the byte has this epoch."""
        self._held[epoch] = byte

    def end(self, byte: int) -> None:
        """The worker of this byte has ended, or was never registered."""
        self._gate.dead(byte)

    def retired(self, epoch: int) -> None:
        if (byte := self._held.pop(epoch, None)) is not None:
            self.end(byte)

    def release(self) -> None:
        """The bytes of workers that did not retire are held until the process ends, or the last of its stores
        is closed."""
        gates.release(self._gate)


def open_host_gate(folder: str | None) -> HostGate | None:
    """None where the platform has no gates or the file may not be used: then deaths are detected by leases
    alone, which is logged."""
    if folder is None:
        return None
    try:
        return _opened(Path(folder))
    except OSError as error:
        logger.warning(
            "Workers on this host cannot prove to each other that they live; a dead one is found when its"
            " lease has ended: %s",
            error,
        )
        return None


def _opened(folder: Path) -> HostGate | None:
    if not (boot := boot_id()):
        return None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check(folder)
    gate = gates.gate_of(folder / _FILE)
    if gate is None:
        return None
    try:
        return HostGate(gate, boot)
    except BaseException:
        gates.release(gate)
        raise


def _check(folder: Path) -> None:
    """A user who can replace the file can have live workers declared dead. Raises PermissionError."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise PermissionError(f"{folder} is no folder, or a link to one")
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{folder} belongs to another user, or others may write there")
