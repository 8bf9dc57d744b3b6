"""`coordinator keys`: a key is printed once, on stdout, and has the permissions of its role."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordinator.cli import app
from coordinator.gateway.caller import Caller, Role
from coordinator.gateway.keys import Keys

pytestmark = pytest.mark.usefixtures("own_logging")

DONE, FAILED, USAGE = 0, 1, 2


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_create_prints_only_the_key_which_is_valid_at_once(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["keys", "create", "--file", str(file), "--user", "alice"]) == DONE
    out, err = capsys.readouterr()
    text = out.strip()
    assert out == f"{text}\n"
    assert text not in err
    caller = Keys(file).caller_of(text)
    assert caller is not None
    assert (caller.user_id, caller.role) == ("alice", Role.user)


def test_list_shows_neither_keys_nor_hashes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app.run(["keys", "create", "--file", str(file), "--role", "admin", "--json"])
    made = json.loads(capsys.readouterr().out)["key"]
    app.run(["keys", "list", "--file", str(file)])
    app.run(["keys", "list", "--file", str(file), "--json"])
    out, err = capsys.readouterr()
    assert made["id"] in out
    secret = made["text"].split("_", 2)[2]
    assert secret not in out + err + file.read_text()
    assert json.loads(file.read_text())["keys"][0]["hash"] not in out + err


def test_revoked_key_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app.run(["keys", "create", "--file", str(file), "--role", "reader", "--everyone"])
    text = capsys.readouterr().out.strip()
    assert Keys(file).caller_of(text) == Caller(None, Role.reader, text.split("_")[1])
    assert app.run(["keys", "revoke", text.split("_")[1], "--file", str(file)]) == DONE
    assert Keys(file).caller_of(text) is None
    assert app.run(["keys", "revoke", text.split("_")[1], "--file", str(file)]) == FAILED


def test_a_whole_key_can_be_revoked_and_is_not_repeated(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app.run(["keys", "create", "--file", str(file), "--user", "a"])
    text = capsys.readouterr().out.strip()
    for _ in range(2):
        app.run(["keys", "revoke", text, "--file", str(file)])
        out, err = capsys.readouterr()
        assert text.split("_", 2)[2] not in out + err


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--role", "reader"],
        ["--role", "admin", "--user", "alice"],
        ["--role", "user", "--everyone"],
        ["--role", "reader", "--user", "a", "--everyone"],
        ["--role", "root", "--user", "a"],
        ["--user", "a", "--expires", "soon"],
        ["--user", "a\x1b[31m"],
    ],
    ids=" ".join,
)
def test_invalid_options_are_usage_errors_and_create_no_file(
    file: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["keys", "create", "--file", str(file), *options]) == USAGE
    assert "\x1b" not in capsys.readouterr().err
    assert not file.exists()


def test_missing_or_invalid_file_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["keys", "list", "--file", str(file)]) == USAGE
    file.write_text("rck_0123456789ab_SECRET")
    file.chmod(0o600)
    assert app.run(["keys", "list", "--file", str(file), "--json"]) == USAGE
    err = capsys.readouterr().err
    assert "keys.json" in err
    assert "SECRET" not in err


@pytest.mark.parametrize("linked", [False, True], ids=["file", "link"])
def test_no_key_is_created_in_an_untrusted_file(
    file: Path, linked: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = file.with_name("open")
    opened.mkdir()
    opened.chmod(0o777)
    if linked:
        file.symlink_to(opened / "keys.json")
    named = file if linked else opened / "keys.json"
    create = ["keys", "create", "--file", str(named), "--user", "a"]
    assert app.run(create) == USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert f"chmod go-w '{opened}'" in err
    assert list(opened.iterdir()) == []
    opened.chmod(0o755)
    assert app.run(create) == DONE
    assert len(Keys(named)) == 1
