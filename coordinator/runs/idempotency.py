"""The hash by which requests with the same idempotency key are compared."""

from __future__ import annotations

import hashlib
import json
import re

from stores.json_values import Json
from stores.spec import ROLES, HashPart, RunSpec, default_of
from stores.sql.codec import dumps_opaque, is_json

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PARTS = {part: tuple(name for name, role in ROLES.items() if role.hashed is part) for part in HashPart}


def hash_of(spec: RunSpec) -> str | None:
    """Returns the hash of a spec with an idempotency key; None without one."""
    return None if spec.idempotency_key is None else body_hash(spec)


def body_hash(spec: RunSpec) -> str:
    """Returns a hash that is the same in every process. kwargs that JSON cannot hold are hashed as they are
    stored, without the addresses of objects. A new field does not change the hash of a spec without it."""
    body = [_hashed(spec, name) for name in _PARTS[HashPart.always]]
    for part in (HashPart.limits, HashPart.webhook):
        values = [_hashed(spec, name) for name in _PARTS[part]]
        if any(value is not None for value in values):
            body += values
    named = {name: _hashed(spec, name) for name in _PARTS[HashPart.named]}
    if given := {name: value for name, value in named.items() if value != default_of(name)}:
        body.append(given)
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _hashed(spec: RunSpec, name: str) -> Json:
    value = getattr(spec, name)
    if name != "kwargs" or is_json(value):
        return value
    return json.loads(_ADDRESS.sub("", dumps_opaque(value)))
