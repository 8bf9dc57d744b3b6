"""Proofs of life: each worker holds a byte of a gate file as long as its process lives.

A worker's row has the proof with which it registered: the name of its gate file and the byte. Without a byte,
the byte is the epoch.
"""

from __future__ import annotations

from stores.gate import FileGate
from stores.rows import WorkerRow

_BYTE = "#"


class LifeProofs:
    """`name` must identify the gate file among all files, including its copies if a worker could open one."""

    def __init__(self, gate: FileGate, name: str) -> None:
        self._gate, self._name = gate, name

    def of(self, byte: int) -> str:
        """Returns the proof of a worker that holds `byte`."""
        return f"{self._name}{_BYTE}{byte}"

    def dead(self, peer: WorkerRow) -> bool:
        """Returns whether the peer's process has certainly ended (see `FileGate.proves_death`)."""
        byte = self._byte(peer)
        return byte is not None and self._gate.proves_death(byte, peer.pid)

    def alive(self, peer: WorkerRow) -> bool:
        """Returns whether the peer's process certainly lives."""
        byte = self._byte(peer)
        return byte is not None and self._gate.is_live(byte)

    def _byte(self, peer: WorkerRow) -> int | None:
        """Returns the peer's byte, or None if it registered with another gate file or none."""
        name, separator, byte = (peer.proof or "").partition(_BYTE)
        if name != self._name:
            return None
        if not separator:
            return peer.epoch
        return int(byte) if byte.isascii() and byte.isdigit() else None
