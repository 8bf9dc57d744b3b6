"""Names of keys and channels. All keys of a script have the same hash tag, so a script never spans two slots
of a Cluster.

* `{ns}:{t:<t>}:holder`: string `<fence> <run id>`, the slot of a thread
* `{ns}:{t:<t>}:ev`: channel: freed, log grown
* `{ns}:{t:<t>}:log:<run>`: stream, the run's events
* `{ns}:{w:<epoch>}:lease`: string, beat number
* `{ns}:{w:<epoch>}:ctl`: abort channel
* `{ns}:{g}:ctl`: channel to all workers
* `{ns}:{g}:workers`: zset, epochs by expiry
* `{ns}:{g}:probe:<n>`: scratch key of the greeting
* `{ns}:{g<n>}:probe`: the same, in other slots of a Cluster

Workers of earlier versions keep the slot in a hash `{ns}:{t:<t>}:slot` and a string `{ns}:{t:<t>}:resv`.
`<t>` is the tag of the thread id, `<run>` that of the run id (see `tag`). Every key has a TTL.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import NamedTuple

PLAIN_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
PROBES = 16
_HASHED = re.compile(r"h-[0-9a-f]{32}")


def tag(client_id: str) -> str:
    """Returns a plain id unchanged, and for any other id `h-` and 32 hex digits of its SHA-256.

    Tags are unique: a plain id in the format of a hashed one is hashed as well, so no client can choose an id
    whose keys are those of another thread.
    """
    if PLAIN_ID.fullmatch(client_id) and not (client_id.startswith("h-") and _HASHED.fullmatch(client_id)):
        return client_id
    return "h-" + sha256(to_bytes(client_id)).hexdigest()[:32]


def to_bytes(client_id: str) -> bytes:
    """Encodes as UTF-8, including lone surrogates, which clients can send in JSON."""
    return client_id.encode("utf-8", "surrogatepass")


def to_text(stored: bytes) -> str | None:
    """Decodes the result of `to_bytes`; returns None for other bytes."""
    try:
        return stored.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None


class ThreadKeys(NamedTuple):
    slot: bytes
    events: bytes


class WorkerKeys(NamedTuple):
    lease: bytes
    control: bytes


class Keys:
    """The names within one namespace, which separates deployments that share a Redis."""

    def __init__(self, namespace: str = "rc") -> None:
        if not _NAMESPACE.fullmatch(namespace):
            raise ValueError(f"namespace must match {_NAMESPACE.pattern}, not {namespace!r}")
        self.namespace = namespace
        self._thread = f"{namespace}:{{t:"
        self.broadcast = f"{namespace}:{{g}}:ctl".encode()
        self.workers = f"{namespace}:{{g}}:workers".encode()
        # Enough hash tags that on a node of a Cluster at least one belongs to another node.
        self.probes = [f"{namespace}:{{g{number}}}:probe".encode() for number in range(PROBES)]
        self.scratch = [f"{namespace}:{{g}}:probe:{number}".encode() for number in range(2)]
        self.scratch_channel = f"{namespace}:{{g}}:probe".encode()

    def thread(self, thread_id: str) -> ThreadKeys:
        prefix = f"{self._thread}{tag(thread_id)}}}:".encode()
        return ThreadKeys(prefix + b"holder", prefix + b"ev")

    def log(self, thread_id: str, run_id: str) -> bytes:
        return f"{self._thread}{tag(thread_id)}}}:log:{tag(run_id)}".encode()

    @staticmethod
    def run(run_id: str) -> bytes:
        """Returns the name of a run in hints."""
        return tag(run_id).encode()

    def worker(self, epoch: int) -> WorkerKeys:
        prefix = f"{self.namespace}:{{w:{epoch}}}:".encode()
        return WorkerKeys(prefix + b"lease", prefix + b"ctl")
