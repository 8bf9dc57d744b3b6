"""Check and test the project with the newest releases of all that it depends on: `make newest`.

    python tools/newest.py [--unbounded] [ARGUMENTS OF PYTEST]

The environment is of its own, below build/newest, on the interpreter that runs this. It has the newest
versions that the bounds in pyproject.toml allow; with `--unbounded` the newest of all: can a bound be raised?
Types are not checked, for stubs follow the releases at a pace of their own. The exit status is 1 where
anything failed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "newest"
UV = str(Path(sys.executable).parent / "uv")
CHECKS = (("ruff", "format", "--check", "."), ("ruff", "check", "."), ("lint-imports", "--no-logo"))
VERSIONS = "from importlib.metadata import distributions as d\nfor i in d(): print(i.name.lower(), i.version)"


def overrides() -> list[str]:
    """Requirements that have an upper bound, without it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    bounded = [line for line in (*project["dependencies"], *extras) if "<" in line.partition(";")[0]]
    return sorted({re.sub(r",?<=?[^,;\s]+", "", line) for line in bounded})


def install(environment: Path, *, unbounded: bool) -> None:
    subprocess.run(
        [UV, "venv", "--quiet", "--seed", "--clear", "--python", sys.executable, environment], check=True
    )
    options = ["--python", str(environment / "bin" / "python"), "--upgrade", "--group", "dev"]
    if unbounded:
        file = FOLDER / "overrides.txt"
        file.write_text("\n".join(overrides()) + "\n")
        options += ["--override", str(file)]
    subprocess.run([UV, "pip", "install", "--quiet", *options, "-e", ".[all,demo]"], check=True, cwd=ROOT)


def newer(environment: Path) -> list[str]:
    """What is not the version of the lock, which this interpreter has."""
    locked = {one.name.lower(): one.version for one in distributions()}
    command = [environment / "bin" / "python", "-c", VERSIONS]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    installed = dict(line.split() for line in lines)
    return [
        f"{name} {locked.get(name, '-')} -> {installed[name]}"
        for name in sorted(installed)
        if installed[name] != locked.get(name)
    ]


def main(arguments: list[str]) -> int:
    unbounded = "--unbounded" in arguments
    tests = [argument for argument in arguments if argument != "--unbounded"]
    environment = FOLDER / ("unbounded" if unbounded else "bounded")
    FOLDER.mkdir(parents=True, exist_ok=True)
    install(environment, unbounded=unbounded)
    print("\n".join(["other than locked:", *newer(environment)]), flush=True)
    failed: list[str] = []
    for command in (*CHECKS, ("pytest", *(tests or ("-n", "4")))):
        print(f"== {' '.join(command)}", flush=True)
        if subprocess.run([environment / "bin" / command[0], *command[1:]], cwd=ROOT, check=False).returncode:
            failed.append(command[0])
    print(f"newest, {environment.name}: {'failed: ' + ', '.join(failed) if failed else 'all passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
