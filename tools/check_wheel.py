"""Check that the one wheel in a folder holds every file of the packages that a user needs, and no other.

A wheel that lacks a migration or `py.typed` still installs and imports, so nothing but this notices. The same
holds for modules that import what only the repository has, and for what only the tests of this project need
(docs/adr/0074).

    python tools/check_wheel.py FOLDER
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("coordinator", "stores")
SHIPPED_SUFFIXES = {".css", ".html", ".js", ".lua", ".py", ".sql", ".txt", ".typed"}

IN_THE_REPOSITORY = frozenset({"bench", "examples", "noxfile", "pytest", "tests", "tools"})
"""What no shipped module may import: a user does not have it."""
MOVED = ("coordinator/testing/history/", "coordinator/testing/graphlike/")
"""Of this project's own tests."""
KIT, DEMO = "coordinator/testing/", "coordinator/cli/demo/"
MAX_BYTES = 1_700_000
MAX_DEMO_LINES = 700


def imported(source: str) -> set[str]:
    """The modules that a source imports, whole names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def misplaced(sources: dict[str, str]) -> list[str]:
    """What is wrong with the modules of a wheel, by name and source."""
    lines: list[str] = []
    for name, source in sorted(sources.items()):
        modules = imported(source)
        lines += [f"{name} imports {one}" for one in modules if one.partition(".")[0] in IN_THE_REPOSITORY]
        if not name.startswith(KIT) and any(f"{one}.".startswith("coordinator.testing.") for one in modules):
            lines.append(f"{name} imports coordinator.testing, which is for users' tests")
        if name.startswith(MOVED):
            lines.append(f"{name} is of this project's own tests")
    demo = sum(
        source.count("\n") for name, source in sources.items() if name.startswith("coordinator/cli/demo/")
    )
    if demo > MAX_DEMO_LINES:
        lines.append(f"{DEMO} has {demo} lines, more than {MAX_DEMO_LINES}")
    return lines


def files_expected() -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in SHIPPED_SUFFIXES
    }


def problems(names: set[str]) -> list[str]:
    expected = files_expected()
    # What the packages cannot do without, whatever the source tree looks like at the moment.
    required = {f"{package}/{name}" for package in PACKAGES for name in ("__init__.py", "py.typed")}
    outside = {name for name in names if name.split("/")[0] not in PACKAGES and ".dist-info/" not in name}
    lines = [f"missing: {name}" for name in sorted((expected | required) - names)]
    lines += [f"does not belong: {name}" for name in sorted(outside)]
    if not any(name.startswith("stores/sql/") and name.endswith(".sql") for name in names):
        lines.append("missing: every statement below stores/sql")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        lines.append("missing: LICENSE")
    return lines


def main(folder: str) -> int:
    wheels = sorted(Path(folder).glob("*.whl"))
    if len(wheels) != 1:
        print(f"{folder}: one wheel was expected, {len(wheels)} found", file=sys.stderr)
        return 1
    with ZipFile(wheels[0]) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        sources = {name: archive.read(name).decode() for name in names if name.endswith(".py")}
    lines = problems(names) + misplaced(sources)
    size = wheels[0].stat().st_size
    if size > MAX_BYTES:
        lines.append(f"{size} bytes, more than {MAX_BYTES}")
    for line in lines:
        print(f"{wheels[0].name}: {line}", file=sys.stderr)
    if not lines:
        print(f"{wheels[0].name}: {len(names)} files, {size / 1000:.0f} kB, complete")
    return 1 if lines else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
