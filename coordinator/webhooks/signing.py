"""Signatures of webhooks, as Standard Webhooks (standardwebhooks.com) has them.

A receiver checks with any library for that, or with `verify`: HMAC-SHA256 over id, timestamp and body.
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
"""Seconds that a timestamp may be off: a request that somebody recorded cannot be sent again later."""

_PREFIX = "whsec_"
_SHORTEST = 16  # bytes


class SignatureInvalid(ValueError):
    """The request was not signed with one of the secrets, or not lately."""


@dataclass(frozen=True, slots=True)
class Signer:
    """`secrets`: none = requests are not signed. All of them sign, so that receivers can be given a new
    one before the old one is taken away."""

    secrets: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, text: SecretStr | None) -> Signer:
        """Of a setting: secrets with blanks between. Raises ValueError."""
        return cls(() if text is None else tuple(_secret(one) for one in text.get_secret_value().split()))

    def headers(self, webhook_id: str, body: bytes, *, now: float) -> dict[str, str]:
        """What goes with the request: the id to tell repeated ones by, the time, and the signatures."""
        timestamp = str(int(now))
        found = {ID: webhook_id, TIMESTAMP: timestamp}
        if self.secrets:
            signatures = [_signature(secret, webhook_id, timestamp, body) for secret in self.secrets]
            found[SIGNATURE] = " ".join(signatures)
        return found


def verify(secret: str, headers: Mapping[str, str], body: bytes, *, now: float | None = None) -> str:
    """For receivers: the id of a request that is signed with `secret`; it was seen before where it is
    repeated. `headers` by lower-case name; `body` as it came. Raises SignatureInvalid, and ValueError for
    a secret that is of no use."""
    try:
        webhook_id, timestamp, given = headers[ID], headers[TIMESTAMP], headers[SIGNATURE].split(" ")
        sent = int(timestamp)
    except (KeyError, ValueError):
        raise SignatureInvalid("the headers of a signed webhook are missing") from None
    if abs((time.time() if now is None else now) - sent) > TOLERANCE:
        raise SignatureInvalid("it was signed too long ago, or in the future")
    expected = _signature(_secret(secret), webhook_id, timestamp, body).encode()
    if not any(hmac.compare_digest(expected, one.encode()) for one in given):
        raise SignatureInvalid("no signature is right")
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
