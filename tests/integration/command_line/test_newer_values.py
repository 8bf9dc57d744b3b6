"""Commands beside workers of a newer version, whose values they do not know."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tests.support.command_line import DONE, Busy

NEWER = """
PRAGMA ignore_check_constraints = ON;
DROP TRIGGER runs_status_is_final;
UPDATE runs SET status = 'suspended', cancel_action = 'suspend', cancel_cause = 'quota',
    multitask_strategy = 'merge' WHERE run_id = '{run}';
UPDATE transitions SET to_status = 'suspended', cause = 'quota' WHERE run_id = '{run}';
INSERT INTO workers (epoch, worker_id, host, boot_id, pid, version, state, ttl_ms, lease_until, started_at)
    VALUES (99, 'newer', 'there', 'boot', 1, '9.0', 'resting', 15000, 9999999999999999, 1);
INSERT INTO webhooks (run_id, thread_id, url, state, created_at)
    VALUES ('w', 't', 'https://example.com/', 'held back', 1);
"""


@pytest.fixture
def newer(busy: Busy) -> Busy:
    with closing(sqlite3.connect(busy.path, isolation_level=None)) as cx:
        cx.executescript(NEWER.format(run=busy.done.run_id))
    return busy


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("runs list", "suspended"),
        ("runs show {run}", "quota"),
        ("explain {run}", "quota"),
        ("threads list", "t1"),
        ("threads show t1", "suspended"),
        ("workers list", "resting"),
        ("webhooks list", "held back"),
    ],
)
@pytest.mark.parametrize("form", ["", "--json"])
async def test_commands_show_unknown_values_as_text(
    newer: Busy, command: str, expected: str, form: str
) -> None:
    answer = await newer.cli(*command.format(run=newer.done.run_id).split(), *form.split())
    assert answer.code == DONE
    assert "cannot be read" not in answer.err
    assert expected in answer.out


async def test_list_omits_unreadable_row_with_a_warning(newer: Busy) -> None:
    with closing(sqlite3.connect(newer.path, isolation_level=None)) as cx:
        cx.execute("UPDATE runs SET metadata = '{' WHERE run_id = ?", (newer.done.run_id,))
    answer = await newer.cli("runs", "list")
    assert answer.code == DONE
    assert newer.done.run_id not in answer.out
    assert newer.running.run_id in answer.out
    assert f"run '{newer.done.run_id}' cannot be read" in answer.err


async def test_workers_of_several_versions_are_reported(newer: Busy) -> None:
    for command in (("workers", "list"), ("db", "check")):
        answer = await newer.cli(*command)
        assert "workers of several versions are alive" in answer.err
        assert "9.0" in answer.err
    check = (await newer.cli("db", "check", "--json")).document["check"]
    assert check["versions"]["9.0"] == 1
    assert sum(check["versions"].values()) == 2
