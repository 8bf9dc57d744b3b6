"""No command prints a password of a store's or Redis's URL, however the URL is malformed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from coordinator.cli import app
from tests.support.command_line import USAGE, cli

pytestmark = pytest.mark.usefixtures("own_logging")

PW = "PLANTED"

MALFORMED_STORES = [
    f"postgresql://u:{PW}@127.0.0.1:notaport/db",
    f"postgresql://u:{PW}@127.0.0.1:99999/db",
    f"postgresql://u:{PW}@127.0.0.1:1",
    f"postgresql://u:{PW}@[::1/db",
    f"postgresql://u:{PW}\u2100@h/db",
    f"postgresql://u:{PW}/x@127.0.0.1:1/db",
    f"postgresql://u:{PW}#x@127.0.0.1:1/db",
    f"postgresql://u:{PW}?x@127.0.0.1:1/db",
    f"postgresql://u:{PW}?x=y@127.0.0.1:1/db",
    f"postgresql://u:{PW}@x@127.0.0.1:1/db",
    f"postgresql://u:1{PW}/x",
    f"postgresql://u:1/{PW}@127.0.0.1:1/db",
    f"postgresql://u:{PW}@a,b:x/db",
    f"postgresql://u:{PW}@127.0.0.1:1/db?sslmode={PW}",
    f"postgresql://u:{PW}@127.0.0.1:1/db?sslmode",
    f"postgresql://u:{PW}@127.0.0.1:1/db?target_session_attrs={PW}",
    f"postgresql://127.0.0.1/db?port={PW}",
    f"postgresql:/u:{PW}@h/db",
    f"postgresql+asyncpg://u:{PW}@h/db",
    f"mysql://u:{PW}@h/db",
    f"u:{PW}@h",
    f"u:{PW}@h://x",
    f"{PW}",
    f"sqlite://u:{PW}@h/x",
]
MALFORMED_REDIS = [
    f"redis://u:{PW}@127.0.0.1:x",
    f"redis://u:{PW}@[::1",
    f"redis://127.0.0.1:1?passwrd={PW}",
    f"redis://u:{PW}/y@127.0.0.1:1",
    f"redis://u:{PW}?{PW}=y@127.0.0.1:1",
    f"rediss://u:{PW}@127.0.0.1:1?ssl_ca_certs=/nowhere",
    f"redis+sentinel://u:{PW}@127.0.0.1:x/svc",
    f"http://u:{PW}@h",
    f"u:{PW}@h",
    f"redis://u:{PW}@127.0.0.1:1?ssl_cert_reqs={PW}",
    f"redis://u:{PW}@127.0.0.1:1?db={PW}",
]
WELL_FORMED = [
    ("--store", f"postgresql://u:{PW}@127.0.0.1:1/db"),
    ("--store", f"postgresql://127.0.0.1:1/db?password={PW}"),
    ("--store", f"postgresql://127.0.0.1:1/db?passwor={PW}"),
    ("--store", f"postgresql://u:{PW}%zz@127.0.0.1:1/db"),
    ("--store", f"postgresql://u:{PW}@127.0.0.1:1/db?ssl_min_protocol_version={PW}"),
    ("--store", f"postgresql://u:{PW}@{'a' * 70}.example:1/db"),
    ("--redis", f"redis://:{PW}@127.0.0.1:1"),
    ("--redis", f"redis://127.0.0.1:1?password={PW}"),
    ("--redis", f"redis://127.0.0.1:1/{PW}"),
    ("--redis", f"unix://nowhere/redis.sock?password={PW}"),
    ("--redis", f"redis+sentinel://u:{PW}@127.0.0.1:1/svc?sentinel_password={PW}"),
]


EACH = 4
"""Each command is given every fourth URL, and each URL to every fourth command."""


def _leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, child in getattr(command, "commands", {}).items():
        yield from _leaves(child, (*words, name))
    if not getattr(command, "commands", None):
        yield words, command


def _needed(command: Any) -> list[str]:
    """Values for what the command cannot do without."""
    values = {"--older-than": "30d", "--from": "sqlite:///x.db", "--to": "postgresql://h/db"}
    words: list[str] = []
    for parameter in command.params:
        if parameter.param_type_name == "argument" and (parameter.required or parameter.nargs != 1):
            words.append("1")
        elif parameter.required:
            words += [parameter.opts[0], values[parameter.opts[0]]]
    return words


ALL = dict(_leaves(get_command(app.app)))
ELSEWHERE = {("serve",), ("dev",), ("demo",), ("keys", "revoke")}  # each has a test of its own
OF_STORES = [
    pytest.param(words, command, id=" ".join(words))
    for words, command in ALL.items()
    if words not in ELSEWHERE and any("--store" in one.opts for one in command.params)
]


def test_password_tests_cover_every_command_that_opens_a_store() -> None:
    walked = {str(parameter.id) for parameter in OF_STORES}
    assert {words[0] for words in ALL} - {words.split()[0] for words in walked} == {
        "keys",
        "serve",
        "dev",
        "demo",
    }
    assert len(walked) >= 17


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COORDINATOR_POSTGRES_AWAY", "0.05")
    return tmp_path


def output_without_password(
    words: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> str:
    """The whole output of the command, checked."""
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        code = app.run(words)
    out, err = capsys.readouterr()
    output = out + err + caplog.text
    assert PW not in output, words
    assert "Traceback" not in output, words
    assert code == USAGE, (words, output)
    return output


@pytest.mark.parametrize(("words", "command"), OF_STORES)
def test_no_command_prints_a_password(
    words: tuple[str, ...],
    command: Any,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = {option for parameter in command.params for option in parameter.opts}
    at = list(ALL).index(words) % EACH
    for url in MALFORMED_STORES[at::EACH]:
        output_without_password([*words, *_needed(command), "--store", url], capsys, caplog)
    if "--redis" in options and words[0] not in {"db", "prune"}:  # they open the store first
        for url in MALFORMED_REDIS[at::EACH]:
            output_without_password(
                [*words, *_needed(command), "--store", "sqlite:///x.db", "--redis", url], capsys, caplog
            )
    assert list(folder.iterdir()) == []


def test_no_other_command_that_takes_a_url_prints_a_password(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for url in MALFORMED_STORES:
        output_without_password(["db", "copy", "--from", "sqlite:///x.db", "--to", url], capsys, caplog)
        output_without_password(["db", "copy", "--from", url, "--to", "postgresql://h/db"], capsys, caplog)
    for url in MALFORMED_REDIS:
        output_without_password(["demo", "--redis", url], capsys, caplog)


@pytest.mark.parametrize("variable", ["COORDINATOR_STORE", "COORDINATOR_REDIS"])
def test_password_in_a_variable_is_not_printed(
    variable: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for url in MALFORMED_STORES if variable == "COORDINATOR_STORE" else MALFORMED_REDIS:
        monkeypatch.setenv(variable, url)
        output_without_password(["runs", "list"], capsys, caplog)
        output_without_password(["runs", "list", "--json"], capsys, caplog)


def test_misplaced_url_is_printed_without_password(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    url = f"postgresql://u:{PW}@h/db"
    for words in (
        ["runs", "list", url],
        ["runs", "show", "a", url],
        ["db", url],
        ["runs", "list", "--status", url],
    ):
        output_without_password(words, capsys, caplog)


@pytest.mark.parametrize(("option", "url"), WELL_FORMED)
async def test_unreachable_server_is_named_without_password(empty: str, option: str, url: str) -> None:
    store = {"COORDINATOR_STORE": empty, "COORDINATOR_POSTGRES_AWAY": "0.05"}
    answer = await cli("db", "check", option, url, env=store)
    assert PW not in answer.out + answer.err
    assert "Traceback" not in answer.err
    assert answer.code == 3, answer


@pytest.mark.parametrize(
    ("option", "url"),
    [
        ("--store", MALFORMED_STORES[0]),
        ("--store", MALFORMED_STORES[6]),
        ("--store", MALFORMED_STORES[13]),
        ("--store", f"u:{PW}@h"),
        ("--redis", MALFORMED_REDIS[0]),
        ("--redis", MALFORMED_REDIS[4]),
    ],
)
async def test_no_server_prints_a_password(tmp_path: Path, option: str, url: str) -> None:
    store = [] if option == "--store" else ["--store", f"sqlite:///{tmp_path}/x.db"]
    answer = await cli("serve", "--port", "0", *store, option, url, cwd=tmp_path)
    assert PW not in answer.out + answer.err
    assert "Traceback" not in answer.err
    assert answer.code == USAGE, answer
