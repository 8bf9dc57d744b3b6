"""Check that the one wheel in a folder holds every file of the packages that a user needs, and no other.

A wheel that lacks a migration or `py.typed` still installs and imports, so nothing but this notices.

    python tools/check_wheel.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("coordinator", "stores")
SHIPPED_SUFFIXES = {".css", ".html", ".js", ".lua", ".py", ".sql", ".txt", ".typed"}


def files_expected() -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in SHIPPED_SUFFIXES
    }


def problems(found: set[str]) -> list[str]:
    expected = files_expected()
    # What the packages cannot do without, whatever the source tree looks like at the moment.
    required = {f"{package}/{name}" for package in PACKAGES for name in ("__init__.py", "py.typed")}
    outside = {name for name in found if name.split("/")[0] not in PACKAGES and ".dist-info/" not in name}
    lines = [f"missing: {name}" for name in sorted((expected | required) - found)]
    lines += [f"does not belong: {name}" for name in sorted(outside)]
    if not any(name.startswith("stores/sql/") and name.endswith(".sql") for name in found):
        lines.append("missing: every statement below stores/sql")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in found):
        lines.append("missing: LICENSE")
    return lines


def main(folder: str) -> int:
    wheels = sorted(Path(folder).glob("*.whl"))
    if len(wheels) != 1:
        print(f"{folder}: one wheel was expected, {len(wheels)} found", file=sys.stderr)
        return 1
    with ZipFile(wheels[0]) as archive:
        found = {name for name in archive.namelist() if not name.endswith("/")}
    lines = problems(found)
    for line in lines:
        print(f"{wheels[0].name}: {line}", file=sys.stderr)
    if not lines:
        print(f"{wheels[0].name}: {len(found)} files, complete")
    return 1 if lines else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
