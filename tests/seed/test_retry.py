"""Retries: only after transient errors of SQLite, and as often as the policy allows."""

from __future__ import annotations

import logging
import sqlite3

import pytest

from coordinator import PersistenceRetryPolicy
from stores import retry
from stores.retry import is_transient, with_retries

LOCKED = "database is locked"


def _coded(code: int, text: str = "something") -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


class Wrapped(Exception):
    def __init__(self, orig: BaseException) -> None:
        super().__init__("wrapped")
        self.orig = orig


def _caused(inner: BaseException, by: str) -> RuntimeError:
    outer = RuntimeError("outer")
    setattr(outer, by, inner)
    return outer


@pytest.mark.parametrize(
    "error",
    [
        sqlite3.OperationalError(LOCKED),
        sqlite3.OperationalError("database table is locked: runs"),
        sqlite3.OperationalError("Database Is Busy"),
        RuntimeError(LOCKED),
        _coded(sqlite3.SQLITE_BUSY),
        _coded(sqlite3.SQLITE_LOCKED),
        _coded(sqlite3.SQLITE_BUSY_SNAPSHOT),
        Wrapped(sqlite3.OperationalError(LOCKED)),
        _caused(sqlite3.OperationalError(LOCKED), "__cause__"),
        _caused(_coded(sqlite3.SQLITE_BUSY), "__context__"),
        _caused(_caused(Wrapped(_coded(sqlite3.SQLITE_LOCKED)), "__context__"), "__cause__"),
    ],
)
def test_error_is_transient_if_one_of_its_causes_is(error: BaseException) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        sqlite3.OperationalError("no such table: runs"),
        _coded(sqlite3.SQLITE_ERROR),
        _coded(sqlite3.SQLITE_CONSTRAINT_UNIQUE),
        RuntimeError("boom"),
        ConnectionResetError(),
    ],
)
def test_other_errors_are_not_transient(error: BaseException) -> None:
    assert not is_transient(error)


def test_cyclic_chain_of_causes_is_not_transient() -> None:
    one, other = RuntimeError("a"), RuntimeError("b")
    one.__context__, other.__context__ = other, one
    assert not is_transient(one)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(retry.asyncio, "sleep", sleep)
    return slept


class Flaky:
    def __init__(self, *failures: Exception) -> None:
        self.failures, self.calls = list(failures), 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "done"


def _locked(times: int) -> list[Exception]:
    return [sqlite3.OperationalError(f"{LOCKED} ({number})") for number in range(times)]


async def test_default_policy_is_the_documented_one(naps: list[float]) -> None:
    flaky = Flaky(*_locked(4))
    assert await with_retries(PersistenceRetryPolicy(), "put", "r", flaky) == "done"
    assert flaky.calls == 5
    assert naps == [0.05, 0.1, 0.2, 0.4]


async def test_delays_are_bounded(naps: list[float]) -> None:
    policy = PersistenceRetryPolicy(max_attempts=5, initial_delay=0.5, max_delay=1.0, backoff_factor=3.0)
    await with_retries(policy, "put", "r", Flaky(*_locked(4)))
    assert naps == [0.5, 1.0, 1.0, 1.0]


async def test_attempts_count_calls_and_the_last_error_is_raised(naps: list[float]) -> None:
    flaky = Flaky(*_locked(9))
    with pytest.raises(sqlite3.OperationalError, match=r"\(2\)"):
        await with_retries(PersistenceRetryPolicy(max_attempts=3), "put", "r", flaky)
    assert flaky.calls == 3


async def test_no_initial_delay_means_no_sleep(naps: list[float]) -> None:
    await with_retries(PersistenceRetryPolicy(initial_delay=0), "put", "r", Flaky(*_locked(3)))
    assert naps == []


async def test_other_errors_are_tried_once(naps: list[float]) -> None:
    flaky = Flaky(ValueError("no"), ValueError("again"))
    with pytest.raises(ValueError, match="no"):
        await with_retries(PersistenceRetryPolicy(), "put", "r", flaky)
    assert (flaky.calls, naps) == (1, [])


async def test_permanent_error_ends_the_retries(naps: list[float]) -> None:
    flaky = Flaky(sqlite3.OperationalError(LOCKED), ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await with_retries(PersistenceRetryPolicy(), "put", "r", flaky)
    assert flaky.calls == 2


async def test_retries_are_logged(naps: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await with_retries(PersistenceRetryPolicy(), "status", "r1", Flaky(*_locked(1)))
    assert "r1" in caplog.text
