"""The type checker notices where an engine's function, its Protocol in `stores.sql.statements` and its use in
`stores.transactions` do not fit together."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

STORES = Path(__file__).parents[2] / "stores"
SQLITE, POSTGRES = "sql/sqlite/statements.py", "sql/postgres/statements.py"
PROTOCOLS, USES = "sql/statements.py", "transactions.py"
USES_OF_CLIENTS = "client_transactions.py"
CHECKED = (SQLITE, POSTGRES, PROTOCOLS, USES, USES_OF_CLIENTS)


class Change(NamedTuple):
    """A text that is replaced in a file of `stores`, and the files in which the result is an error."""

    file: str
    old: str
    new: str
    errors: set[str]


CHANGES = {
    "nothing": Change(PROTOCOLS, "class Statements", "class Statements", set()),
    "SQLite: type of an argument": Change(
        "sql/sqlite/decisions.py",
        "def withdraw(cx: sqlite3.Connection, now: int, run_id: str, epoch: int)",
        "def withdraw(cx: sqlite3.Connection, now: int, run_id: str, epoch: str)",
        {SQLITE},
    ),
    "SQLite: name of a keyword": Change(
        "sql/sqlite/workers.py", "by: int, *, proven: bool", "by: int, *, certain: bool", {SQLITE}
    ),
    "SQLite: answer": Change(
        "sql/sqlite/admission.py",
        "def claimants(cx: sqlite3.Connection, thread_id: str) -> list[int]",
        "def claimants(cx: sqlite3.Connection, thread_id: str) -> list[str]",
        {SQLITE},
    ),
    "both engines: answer of a read": Change(
        "sql/reads.py",
        "def waiting_line(thread_id: str) -> Select[list[str]]",
        "def waiting_line(thread_id: str) -> Select[list[int]]",
        {USES},
    ),
    "PostgreSQL: one argument more": Change(
        "sql/postgres/workers.py",
        "def drain(now: int | None, epoch: int)",
        "def drain(now: int | None, epoch: int, by: int)",
        {POSTGRES},
    ),
    "PostgreSQL: order of arguments": Change(
        "sql/postgres/crons.py",
        "def skip(now: int | None, firing: Firing, error: str | None)",
        "def skip(now: int | None, error: str | None, firing: Firing)",
        {POSTGRES},
    ),
    "PostgreSQL: answer": Change(
        "sql/postgres/ownership.py",
        "def refence(now: int | None, own: Ownership) -> Call[Ownership | None]",
        "def refence(now: int | None, own: Ownership) -> Call[int]",
        {POSTGRES},
    ),
    "PostgreSQL: no such function": Change(
        "sql/postgres/events.py", "def tops(", "def log_tops(", {POSTGRES}
    ),
    "Protocol: one argument more": Change(
        PROTOCOLS,
        "def claim(now: int, thread_id: str, epoch: int)",
        "def claim(now: int, thread_id: str, epoch: int, fence: int)",
        {SQLITE, POSTGRES, USES},
    ),
    "use: one argument less": Change(
        USES, "admission.claim, thread_id, epoch)", "admission.claim, thread_id)", {USES}
    ),
    "use: type of an argument": Change(
        USES,
        "finding.find_runs, query, user_id, behind, limit",
        "finding.find_runs, query, user_id, limit, behind",
        {USES},
    ),
    "use: name of a keyword": Change(
        USES, "ownership.save, own, values, last=last", "ownership.save, own, values, final=last", {USES}
    ),
    "use: answer": Change(
        USES,
        "async def holder(self, thread_id: str) -> str | None",
        "async def holder(self, thread_id: str) -> int | None",
        {USES},
    ),
    "use of clients: order of arguments": Change(
        USES_OF_CLIENTS,
        "crons.skip, firing, error)",
        "crons.skip, error, firing)",
        {USES_OF_CLIENTS},
    ),
    "use: a transaction as a read": Change(
        USES,
        "self._write(self._sql.workers.drain, epoch)",
        "self._read(self._sql.workers.drain, epoch)",
        {USES},
    ),
}


def copies_for(changes: Mapping[str, Change]) -> list[list[str]]:
    """Returns the names of the changes by copy of `stores`: as few copies as possible, because each takes
    seconds to check, and no two changes of one copy have errors in the same file."""
    copies: list[list[str]] = []
    for name, change in changes.items():
        fitting = (copy for copy in copies if not any(changes[one].errors & change.errors for one in copy))
        if (copy := next(fitting, None)) is None:
            copies.append(copy := [])
        copy.append(name)
    return copies


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, set[str]]:
    """The files with errors in the copy of a change, by change. All copies are checked at once."""
    folder = tmp_path_factory.mktemp("seam")
    copies = copies_for(CHANGES)
    for number, names in enumerate(copies):
        copied = folder / str(number) / "stores"
        shutil.copytree(STORES, copied, ignore=shutil.ignore_patterns("__pycache__", "functions", "*.sql"))
        for name in names:
            change = CHANGES[name]
            text = (copied / change.file).read_text()
            assert text.count(change.old) == 1, name
            (copied / change.file).write_text(text.replace(change.old, change.new))
    settings = {
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "include": [f"{number}/stores/{file}" for number in range(len(copies)) for file in CHECKED],
        "executionEnvironments": [{"root": str(number)} for number in range(len(copies))],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "-p", folder]
    checked = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    files: list[set[str]] = [set() for _ in copies]
    for problem in json.loads(checked.stdout)["generalDiagnostics"]:
        number, _, *file = Path(problem["file"]).relative_to(folder).parts
        files[int(number)].add("/".join(file))
    return {name: files[number] for number, names in enumerate(copies) for name in names}


@pytest.mark.parametrize("name", CHANGES)
def test_signature_that_does_not_fit_is_a_type_error(name: str, errors: Mapping[str, set[str]]) -> None:
    (copy,) = (names for names in copies_for(CHANGES) if name in names)
    others = set[str]().union(*(CHANGES[one].errors for one in copy if one != name))
    assert errors[name] - others == CHANGES[name].errors
