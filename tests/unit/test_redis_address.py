from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Connection
from redis.exceptions import ConnectionError as RedisConnectionError

from coordinator.redis import address
from coordinator.redis.address import Address
from coordinator.redis.connections import check_library
from coordinator.redis.error_text import describe
from coordinator.redis.link import RedisLink
from coordinator.redis.refusals import RefusedError
from coordinator.urls import redact_url

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6379/3?client_name=x",
        f"redis://:{SECRET}@localhost:6379/0",
        f"redis://user:{SECRET}@[::1]:6379/0",
        f"rediss://user:{SECRET}@example.org:6380/1?ssl_cert_reqs=none&ssl_check_hostname=false",
        f"redis+sentinel://user:{SECRET}@a:26379,b,[::1]:26380/service/2?sentinel_password={SECRET}",
        f"rediss+sentinel://:{SECRET}@a/service?ssl_check_hostname=false",
        "redis://localhost?max_connections=9&socket_timeout=3&retry_on_timeout=true&protocol=3",
        f"unix://user:{SECRET}@/run/redis.sock",
    ],
)
def test_a_url_is_taken_and_its_secrets_are_not_shown(url: str) -> None:
    assert SECRET not in repr(Address(url)) + repr(RedisLink(url))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        f"http://{SECRET}@localhost",
        f"redis://:{SECRET}/x@localhost/0",
        f"redis://:{SECRET}@localhost:port",
        f"redis+sentinel://:{SECRET}@a,b",
        f"redis+sentinel://:{SECRET}@/service",
        f"redis+cluster://:{SECRET}@a/service",
        f"redis://:{SECRET}@localhost?hoost={SECRET}",
        f"redis://:{SECRET}@localhost?ssl_cert_reqs=none",
        f"rediss://:{SECRET}@localhost?ssl_chek_hostname=true",
        f"rediss://:{SECRET}@localhost?ssl_cert_reqs={SECRET}",
        f"redis://:{SECRET}@localhost?db={SECRET}",
        f"rediss://:{SECRET}@localhost?ssl_ca_certs=/nowhere",
        f"rediss+sentinel://:{SECRET}@a/service?ssl_certfile=/nowhere&ssl_keyfile=/nowhere",
    ],
)
def test_unusable_url_is_refused_without_showing_its_secrets(url: str) -> None:
    with pytest.raises(ValueError, match="not a usable Redis URL") as refused:
        Address(url)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://u:p@localhost/0?client_name=x#y", "redis://***@localhost/0"),
        ("redis://u:p/a?b#c@d@localhost/0", "redis://***@localhost/0"),
        ("redis+sentinel://:p@a:1,b:2/svc/0?sentinel_password=p", "redis+sentinel://***@a:1,b:2/svc/0"),
        ("nonsense", "***"),
    ],
)
def test_redaction(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@given(st.text())
def test_redaction_takes_any_text(text: str) -> None:
    assert isinstance(redact_url(text), str)
    assert SECRET not in redact_url(f"redis://user:{SECRET}{text}@localhost/0")


@pytest.mark.parametrize("name", ["_reader", "_connection_arguments"])
def test_redis_py_without_the_used_internals_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "_reader":

        def check_without(connection: object) -> None:
            del connection
            check_library(object())

        monkeypatch.setattr(address, "check_library", check_without)
    else:
        monkeypatch.delattr(Connection, name)
    with pytest.raises(ValueError, match=f"installed redis-py has no .*{name}"):
        Address("redis://localhost")


@pytest.mark.parametrize(
    ("error", "tls", "expected"),
    [
        (TimeoutError(), False, "no answer within 1 s"),
        (TimeoutError(), True, "TCP and TLS did not complete within 1 s"),
        (ConnectionRefusedError(), False, "ConnectionRefusedError"),
        (OSError("gone"), False, "OSError: gone"),
        (RefusedError("this is a replica"), False, "this is a replica"),
        (RedisConnectionError("Error UNKNOWN while writing to socket. ."), False, "too many clients"),
    ],
    ids=repr,
)
def test_connection_errors_are_described_for_operators(error: Exception, tls: bool, expected: str) -> None:
    assert expected in describe(error, 1.0, tls=tls)
