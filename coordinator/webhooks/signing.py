"""Signatures of webhooks, as specified by Standard Webhooks (standardwebhooks.com).

A signature is an HMAC-SHA256 over id, timestamp and body. A receiver verifies it with `verify`, or with any
library for that specification.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
TOLERANCE = 300.0
"""Seconds by which a timestamp may differ from the receiver's clock: this prevents a later replay of a
recorded request."""

_PREFIX = "whsec_"
_SHORTEST = 16  # bytes


class SignatureInvalid(ValueError):
    """The request was not signed with one of the secrets, or its timestamp is too old."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs with every secret, so that receivers can be given a new secret before the old one is removed.
    Without secrets, requests are not signed."""

    secrets: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, text: SecretStr | None) -> Signer:
        """Parses the setting: secrets separated by blanks. Raises ValueError."""
        return cls(() if text is None else tuple(_secret(part) for part in text.get_secret_value().split()))

    def headers(self, webhook_id: str, body: bytes, *, now: float) -> dict[str, str]:
        """Returns the headers of a request: its id (the same in every attempt), timestamp and signatures."""
        timestamp = str(int(now))
        headers = {ID: webhook_id, TIMESTAMP: timestamp}
        if self.secrets:
            signatures = [_signature(secret, webhook_id, timestamp, body) for secret in self.secrets]
            headers[SIGNATURE] = " ".join(signatures)
        return headers


def verify(secret: str, headers: Mapping[str, str], body: bytes, *, now: float | None = None) -> str:
    """Verifies a request that a receiver got, and returns its id, which is the same in repeated deliveries.
    `headers`: by lower-case name. `body`: the raw bytes. `now`: seconds since 1970. Raises SignatureInvalid,
    and ValueError for a malformed secret."""
    try:
        webhook_id, timestamp, given = headers[ID], headers[TIMESTAMP], headers[SIGNATURE].split(" ")
        sent = int(timestamp)
    except (KeyError, ValueError):
        raise SignatureInvalid("the headers of a signed webhook are missing") from None
    if abs((time.time() if now is None else now) - sent) > TOLERANCE:
        raise SignatureInvalid("it was signed too long ago, or in the future")
    expected = _signature(_secret(secret), webhook_id, timestamp, body).encode()
    if not any(hmac.compare_digest(expected, signature.encode()) for signature in given):
        raise SignatureInvalid("no signature matches")
    return webhook_id


def _signature(secret: bytes, webhook_id: str, timestamp: str, body: bytes) -> str:
    signed = b".".join((webhook_id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()


def _secret(text: str) -> bytes:
    try:
        if text.startswith(_PREFIX):
            secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        else:
            secret = text.encode()
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("a webhook secret is whsec_ and base64, or plain text") from None
    if len(secret) < _SHORTEST:
        raise ValueError(f"a webhook secret has at least {_SHORTEST} bytes")
    return secret
