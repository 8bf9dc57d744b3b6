"""Proofs of life: each worker holds a byte of a gate file for as long as its process lives.

A worker's row has the proof with which it registered: the name of its gate file, and the byte. Where no byte
is named it is the epoch.
"""

from __future__ import annotations

from stores.gate import FileGate
from stores.rows import WorkerRow

_BYTE = "#"


class LifeProofs:
    """`name` tells the file from every other one, its copies included if those can be met."""

    def __init__(self, gate: FileGate, name: str) -> None:
        self._gate, self._name = gate, name

    def of(self, byte: int) -> str:
        """What a worker registers with that holds `byte`."""
        return f"{self._name}{_BYTE}{byte}"

    def dead(self, peer: WorkerRow) -> bool:
        """The peer's process has ended: see `FileGate.proves_death`. False = cannot tell."""
        byte = self._byte(peer)
        return byte is not None and self._gate.proves_death(byte, peer.pid)

    def alive(self, peer: WorkerRow) -> bool:
        """The peer's process has not ended. False = cannot tell."""
        byte = self._byte(peer)
        return byte is not None and self._gate.is_live(byte)

    def _byte(self, peer: WorkerRow) -> int | None:
        """None = the peer holds another file, or none."""
        name, named, byte = (peer.proof or "").partition(_BYTE)
        if name != self._name:
            return None
        if not named:
            return peer.epoch
        return int(byte) if byte.isascii() and byte.isdigit() else None
