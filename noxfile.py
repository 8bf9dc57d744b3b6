"""The tests on every supported Python that this machine has: `make matrix`, and `make agents` for those alone
that depend on how a Python cancels tasks.

The summary lists each missing Python as skipped; that is no error, because few machines have all of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import nox

PYTHONS = ("3.11", "3.12", "3.13", "3.14")

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["tests"]
nox.options.error_on_missing_interpreters = False  # nox makes it an error by itself where CI is set


def reveal_pyenv_interpreters() -> None:
    """Put pyenv's interpreters on PATH: its shims exist for every version but run the active ones only."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    folders = [
        str(folder)
        for python in PYTHONS
        for folder in sorted(versions.glob(f"{python}.*/bin"), reverse=True)
        if (folder / f"python{python}").exists()
    ]
    os.environ["PATH"] = os.pathsep.join([*folders, os.environ.get("PATH", os.defpath)])


reveal_pyenv_interpreters()


AGENTS = ("tests/fundamentals/test_users_agents.py", "tests/unit/test_task_cancels.py")


def install(session: nox.Session) -> None:
    session.install("--require-hashes", "--only-binary", ":all:", "--requirement", "requirements/dev.txt")
    session.install("--no-deps", "--no-build-isolation", "--no-index", "--editable", ".")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests; arguments after `--` go to pytest."""
    install(session)
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS)
def agents(session: nox.Session) -> None:
    """Stop what users write in every way, and count the cancels that are lost; arguments go to the count."""
    install(session)
    session.run("pytest", "-n", "0", "-q", *AGENTS)
    session.run("python", "-m", "bench.lost_cancels", *session.posargs)
