"""RunSpec: what a run requests, from the edge that checks it to the row that keeps it.

Column lists, parameters of both engines, the idempotency hash, a takeover's copy and what `put` records are
derived from the fields below and from their roles. docs/how-to/add-a-field.md: how a field is added.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from enum import Enum, IntEnum
from typing import NamedTuple, Self

from stores.crons import Firing
from stores.json_values import Json, JsonMapping, JsonObject


class Kind(Enum):
    """How a value is written into its column, on every engine."""

    id = "text without control characters, written as it is"
    text = "free text"
    json = "JSON; None = NULL"
    opaque_json = "a mapping of the caller's: what JSON cannot hold is written as its text"
    integer = "64 bits"
    flag = "true or false"
    parts = "no column: several parameters, or one that only admission reads"


class HashPart(IntEnum):
    """Where a value stands in the idempotency hash. The parts that are hashed as lists keep the hash that
    workers of other versions compute; a field that is added is `named`."""

    always = 0
    limits = 1
    """As a list of all of them, if one of them is not None."""
    webhook = 2
    """As `limits`."""
    named = 3
    """By its name, if it is not the default."""


class Role(NamedTuple):
    """What a field is used for. `hashed` None: two requests that differ in it are the same request.
    `recorded`: `RecordStore.put` takes it. `private`: only for the worker that executes the run; records and
    lists of runs are without it."""

    kind: Kind
    hashed: HashPart | None
    recorded: bool
    private: bool


def _role(
    kind: Kind, hashed: HashPart | None = None, *, recorded: bool = False, private: bool = False
) -> dict[str, Role]:
    return {"role": Role(kind, hashed, recorded, private)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunColumns:
    """What a run requests and its row keeps: each field is a column of `runs` of the same name."""

    thread_id: str = field(metadata=_role(Kind.id, recorded=True))
    kind: str = field(default="run", metadata=_role(Kind.id))
    user_id: str | None = field(default=None, metadata=_role(Kind.id, recorded=True))
    assistant_id: str | None = field(default=None, metadata=_role(Kind.id, HashPart.always, recorded=True))
    multitask_strategy: str = field(default="reject", metadata=_role(Kind.id, HashPart.always, recorded=True))
    on_disconnect: str = field(default="cancel", metadata=_role(Kind.id, recorded=True))
    metadata: JsonObject = field(
        default_factory=JsonObject, metadata=_role(Kind.json, HashPart.always, recorded=True)
    )
    kwargs: JsonObject = field(
        default_factory=JsonObject, metadata=_role(Kind.opaque_json, HashPart.always, recorded=True)
    )
    model_name: str | None = field(default=None, metadata=_role(Kind.text, HashPart.always, recorded=True))
    idempotency_key: str | None = field(default=None, metadata=_role(Kind.id))
    parent_run_id: str | None = field(default=None, metadata=_role(Kind.id, HashPart.limits))
    timeout_ms: int | None = field(default=None, metadata=_role(Kind.integer, HashPart.limits))
    idle_timeout_ms: int | None = field(default=None, metadata=_role(Kind.integer, HashPart.limits))
    retries: int = field(default=0, metadata=_role(Kind.integer))
    """How many further attempts the run may have after deaths of its worker; set from the assistant."""
    user_document: JsonObject | None = field(
        default=None, repr=False, metadata=_role(Kind.json, private=True)
    )
    """`permissions` and `attributes` of the user, from the authentication of the request; None = it has
    none."""
    extra: JsonObject = field(default_factory=JsonObject, metadata=_role(Kind.json))
    """Fields of the caller's own, which change while and after the run executes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec(RunColumns):
    """What a run requests. Built and checked once, at an edge (`coordinator.runs.specs`). The fields of this
    class are read by admission alone; the row keeps those of `RunColumns`."""

    queue_timeout_ms: int | None = field(default=None, metadata=_role(Kind.integer, HashPart.limits))
    delay_ms: int | None = field(default=None, metadata=_role(Kind.integer, HashPart.limits))
    """Delay before the run joins the queue. Until then it does not block other runs, and its queue timeout
    does not run."""
    webhook: str | None = field(default=None, metadata=_role(Kind.id, HashPart.webhook))
    firing: Firing | None = field(default=None, metadata=_role(Kind.parts))
    """The cron and its moment for which the run is admitted, unless another run was admitted for them."""
    thread_must_exist: bool = field(default=False, metadata=_role(Kind.flag))
    adopt_thread: bool = field(default=True, metadata=_role(Kind.flag))
    """A thread without an owner is assigned to `user_id`; otherwise it is not found for that user."""
    temporary_ms: int | None = field(default=None, metadata=_role(Kind.integer))
    """If this admission creates the thread, the thread is temporary: removed so long after its last use."""

    @classmethod
    def of(cls, row: RunColumns) -> Self:
        """The spec of a stored run, as far as its row keeps it. `row`: read alone, because rows of lists are
        without private fields."""
        return cls(**{name: getattr(row, name) for name in COLUMN_NAMES})


class AdmissionRequest(NamedTuple):
    """A spec, and what the admitting worker adds to it. `created_at`: ISO 8601 with an offset. `portable`:
    another worker that knows the assistant may execute the run. `request_hash`: see
    `coordinator.runs.idempotency`. `thread_metadata`: keys that are added to the thread's metadata.
    `new_thread_metadata`: the metadata of the thread if this admission creates it; None = `thread_metadata`.
    `start_ref`: if the run takes its thread, it may start in the same transaction with this rollback
    reference, see `OwnershipStore.start`. `dispatched`: the admitting worker does not execute the run, which
    is portable: it joins the queue without a home, also where the thread is free."""

    run_id: str
    spec: RunSpec
    created_at: str
    portable: bool = False
    request_hash: str | None = None
    thread_metadata: dict[str, str] | None = None
    new_thread_metadata: JsonObject | None = None
    start_ref: JsonObject | None = None
    dispatched: bool = False


COLUMN_NAMES = tuple(each.name for each in fields(RunColumns))
ROLES: dict[str, Role] = {each.name: each.metadata["role"] for each in fields(RunSpec)}
RECORDED = tuple(name for name in COLUMN_NAMES if ROLES[name].recorded)
"""The fields of a spec that `RecordStore.put` takes."""
PRIVATE = tuple(name for name in COLUMN_NAMES if ROLES[name].private)


_FIELDS = {each.name: each for each in fields(RunSpec)}


def default_of(name: str) -> Json:
    """The value of a field that a spec leaves out. None of `thread_id`, which it cannot leave out."""
    each = _FIELDS[name]
    if each.default_factory is not MISSING:
        return each.default_factory()
    return None if each.default is MISSING else each.default


def value_in(record: JsonMapping, name: str) -> Json:
    """Of a field, in a record of any origin: what is absent or empty there has the default."""
    value = record.get(name)
    return value if value or (default := default_of(name)) is None else default
