"""What every test may use. Servers are shared; each test has a namespace of its own, so none sees another."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import AsyncGenerator, Generator
from uuid import uuid4

import pytest
from coverage import Coverage

from coordinator.servers.valkey import ValkeyServer
from tests.support import time_limits
from tests.support.forked import close_servers
from tests.support.order import long_files_first
from tests.support.pooler import Pooler, pooler
from tests.support.postgres import Database, database
from tests.support.proxy import Proxy

pytest.register_assert_rewrite("coordinator.testing.conformance")

NOT_RUN = "NOT RUN: "
"""How the reason of a skip begins where this machine lacks something that the project is tested with."""

# Each HTTP client would read all certificates that the world trusts, for tens of milliseconds. What a test
# trusts, it names.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = os.devnull


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(time_limits)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        long_files_first(items)


def pytest_collection_finish() -> None:
    """What is there now stays to the end, and is too much to look through for garbage again and again."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for where, reason in _not_run(terminalreporter):
        terminalreporter.write_line(f"{where}: {reason}", red=True, bold=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """What this machine lacks is a skip for people and a failure in CI, which installs it."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and _not_run(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _not_run(reporter: pytest.TerminalReporter) -> list[tuple[str, str]]:
    skipped = [report.longrepr for report in reporter.stats.get("skipped", [])]
    named = [(str(where), str(reason)) for where, _, reason in skipped]
    return [
        (where, reason) for where, reason in named if reason.removeprefix("Skipped: ").startswith(NOT_RUN)
    ]


@pytest.fixture(scope="session", autouse=True)
def fork_servers() -> Generator[None]:
    """Those that tests have started are gone, and have written their coverage, when the last test is over."""
    yield
    close_servers()


@pytest.fixture(scope="session")
def shared_valkey() -> Generator[ValkeyServer]:
    """One server for all tests that do it no harm."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="session")
def shared_postgres() -> Generator[Database]:
    """One server for all tests that do it no harm. At the end it has seen no deadlock."""
    with database() as made:
        yield made


@pytest.fixture(scope="session")
def shared_pooler(shared_postgres: Database) -> Generator[Pooler]:
    """A PgBouncer in transaction mode before it."""
    with pooler(shared_postgres) as made:
        yield made


@pytest.fixture
def own_valkey() -> Generator[ValkeyServer]:
    """A server that the test may kill, flush or fill."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid4().hex[:12]}"


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """The test and the processes that it starts run as they do without coverage: for what is measured, and
    for long searches whose lines other tests run as well."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    if (measured := Coverage.current()) is None:
        yield
    else:
        measured.stop()
        yield
        measured.start()


@pytest.fixture
def own_logging() -> Generator[None]:
    """For a test that runs a command in this process: what the command does to the loggers of the library is
    undone."""
    loggers = [logging.getLogger(name) for name in ("coordinator", "stores")]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate


@pytest.fixture
async def no_task_left() -> AsyncGenerator[None]:
    """Fails the test that leaves a task behind."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"


@pytest.fixture
async def proxy(shared_valkey: ValkeyServer, no_task_left: None) -> AsyncGenerator[Proxy]:
    """A network of the test's own, between it and the shared server."""
    async with Proxy(shared_valkey.host, shared_valkey.port) as proxy:
        yield proxy
