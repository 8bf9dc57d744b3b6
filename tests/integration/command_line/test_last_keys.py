"""`keys revoke` states what continues for a user without a key, and by which commands it is stopped."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from coordinator.cli.pending_work import pending_work
from coordinator.gateway import key_file
from coordinator.gateway.caller import Role
from stores.crons import CronRow
from tests.support.command_line import DONE, Answer, Busy, cli

CAROL = "carol o'hara"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def key_of(file: Path, user_id: str | None) -> str:
    role = Role.admin if user_id is None else Role.user
    return key_file.create(file, role=role, user_id=user_id)[0].id


def cron_of(number: int) -> CronRow:
    return CronRow(
        cron_id=f"c{number}",
        user_id=CAROL,
        assistant_id="agent",
        thread_id=None,
        schedule="* * * * *",
        timezone=None,
        enabled=True,
        end_at=None,
        on_run_completed=None,
        payload={"assistant_id": "agent"},
        metadata={},
        next_at=None,
    )


async def revoke(file: Path, key: str, url: str, *more: str) -> Answer:
    answer = await cli("keys", "revoke", key, "--file", str(file), "--store", url, *more)
    assert answer.code == DONE, answer.err
    return answer


async def test_revoking_last_key_shows_commands_that_stop_pending_work(busy: Busy, file: Path) -> None:
    for number in range(3):
        await busy.manager.crons.create(cron_of(number))
    await busy.manager.create_or_reject("w", webhook="https://example.com/hook", user_id=CAROL)
    first, second, _ = key_of(file, CAROL), key_of(file, CAROL), key_of(file, "bob")
    assert "no key left" not in (await revoke(file, first, busy.url)).out
    output = (await revoke(file, second, busy.url)).out
    assert "no key left, and 3 crons will fire" in output
    assert "no key left, and 1 webhook will be sent" in output
    commands = re.findall(r"to stop this: coordinator (.+)", output)
    assert len(commands) == 2
    for command in commands:
        assert (await busy.cli(*shlex.split(command))).code == DONE
    assert tuple(await pending_work(busy.manager, CAROL)) == (0, 0)
    again = await revoke(file, key_of(file, CAROL), busy.url, "--json")
    assert again.document["pending_work"] == {"crons": 0, "webhooks": 0}


async def test_revoking_last_key_names_store_without_pending_work(busy: Busy, file: Path) -> None:
    output = (await revoke(file, key_of(file, CAROL), busy.url)).out
    assert f"no enabled crons or pending webhooks in {busy.url}" in output


async def test_revoking_key_of_all_users_reads_no_store(tmp_path: Path, file: Path) -> None:
    answer = await revoke(file, key_of(file, None), f"sqlite:///{tmp_path / 'none.db'}")
    assert answer.err == ""


async def test_unreadable_store_is_reported_without_password(file: Path) -> None:
    answer = await revoke(file, key_of(file, CAROL), "postgresql://u:PLANTED#x@127.0.0.1:1/db")
    assert "PLANTED" not in answer.out + answer.err
    assert "Traceback" not in answer.err


async def test_key_is_revoked_if_store_is_unreadable(tmp_path: Path, file: Path) -> None:
    key = key_of(file, CAROL)
    answer = await revoke(file, key, f"sqlite:///{tmp_path / 'none.db'}")
    assert f"key {key} is revoked" in answer.out
    assert "does not exist" in answer.err
    assert "coordinator crons list --user" in answer.err
    assert "Traceback" not in answer.err
    assert key_file.read(file) == {}
