"""Signatures: what a receiver can rely on, also if it uses a library for Standard Webhooks."""

from __future__ import annotations

import base64

import pytest
from pydantic import SecretStr, ValidationError

from coordinator.webhooks.settings import WebhookSettings
from coordinator.webhooks.signing import TOLERANCE, SignatureInvalid, Signer, verify

KNOWN = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""With the id, time and body below: the example that the libraries of Standard Webhooks are tested with."""
ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
TEXT = "correct-horse-battery-staple"


def signed(secrets: str = KNOWN, *, body: bytes = BODY) -> dict[str, str]:
    return Signer.of(SecretStr(secrets)).headers(ID, body, now=AT)


def test_the_known_example() -> None:
    assert signed() == {
        "webhook-id": ID,
        "webhook-timestamp": str(AT),
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    assert verify(KNOWN, signed(), BODY, now=AT) == ID


def test_both_secrets_sign_while_one_replaces_the_other() -> None:
    headers = signed(f"{TEXT} {KNOWN}")
    assert verify(KNOWN, headers, BODY, now=AT) == ID
    assert verify(TEXT, headers, BODY, now=AT) == ID


def test_headers_without_secret_have_no_signature() -> None:
    headers = Signer.of(None).headers(ID, BODY, now=AT)
    assert set(headers) == {"webhook-id", "webhook-timestamp"}
    with pytest.raises(SignatureInvalid):
        verify(KNOWN, headers, BODY, now=AT)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("webhook-id", "another"),
        ("webhook-timestamp", str(AT + 1)),
        ("webhook-timestamp", "soon"),
        ("webhook-signature", ""),
        ("webhook-signature", "v1,"),
        ("webhook-signature", "v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        ("webhook-signature", "v1,ü"),
    ],
)
def test_changed_request_fails_verification(name: str, value: str) -> None:
    with pytest.raises(SignatureInvalid):
        verify(KNOWN, {**signed(), name: value}, BODY, now=AT)


def test_another_body_or_secret_is_refused() -> None:
    with pytest.raises(SignatureInvalid):
        verify(KNOWN, signed(), BODY + b" ", now=AT)
    with pytest.raises(SignatureInvalid):
        verify("another-secret-of-some-length", signed(), BODY, now=AT)


@pytest.mark.parametrize("off", [TOLERANCE + 1, -TOLERANCE - 1])
def test_replayed_request_is_refused_after_the_tolerance(off: float) -> None:
    assert verify(KNOWN, signed(), BODY, now=AT + (off - 1 if off > 0 else off + 1)) == ID
    with pytest.raises(SignatureInvalid, match="too long ago"):
        verify(KNOWN, signed(), BODY, now=AT + off)
    with pytest.raises(SignatureInvalid):
        verify(KNOWN, signed(), BODY)


@pytest.mark.parametrize(
    "secret",
    [
        "short",
        "whsec_",
        "whsec_%%%%",
        "whsec_" + base64.b64encode(b"short").decode(),
        KNOWN.replace("GKY", "-GKY"),
        KNOWN.replace("GKY", "\nGKY"),
    ],
)
def test_malformed_secret_is_refused_at_start(secret: str) -> None:
    with pytest.raises(ValidationError, match="webhook secret"):
        WebhookSettings(webhook_secret=SecretStr(secret))
    with pytest.raises(ValueError, match="webhook secret"):
        verify(secret, signed(), BODY, now=AT)


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDINATOR_WEBHOOK_SECRET", KNOWN)
    settings = WebhookSettings()
    assert verify(KNOWN, Signer.of(settings.webhook_secret).headers(ID, BODY, now=AT), BODY, now=AT) == ID
    assert "MfKQ" not in f"{settings!r} {Signer.of(settings.webhook_secret)!r}"
