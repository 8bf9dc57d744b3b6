"""Build what a release consists of, from the commit that is checked out: wheel, sdist, SBOM and checksums.

    python tools/release.py [--compare] [FOLDER]

The bytes depend on the commit alone: not on the clock, the time zone, the umask, the locale, the folder or
what lies beside the sources. `--compare` builds again and checks that against FOLDER (default: dist), which
it leaves as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SBOM = "sbom.cdx.json"
CHECKSUMS = "SHA256SUMS"
LOCK = "requirements/image.txt"


def git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def check_out(target: Path) -> None:
    """The files of the commit, without those that are ignored, changed or new."""
    archive = target.with_suffix(".tar")
    git("archive", "--output", str(archive), "HEAD")
    with tarfile.open(archive) as files:
        files.extractall(target, filter="data")
    archive.unlink()


def build(into: Path) -> None:
    """All files of a release, in an empty folder."""
    environment = {
        **os.environ,
        "SOURCE_DATE_EPOCH": git("log", "-1", "--format=%ct"),
        "TZ": "UTC",
        "LC_ALL": "C",
    }
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "run-coordinator"
        check_out(sources)
        for command in (
            ["build", "--no-isolation", "--quiet", "--outdir", str(into)],
            [
                *("cyclonedx_py", "requirements", LOCK, "--pyproject", "pyproject.toml"),
                *("--mc-type", "library", "--output-reproducible", "--spec-version", "1.6"),
                *("--output-format", "JSON", "--output-file", str(into / SBOM)),
            ],
        ):
            # The lock has no graph of dependencies, which cyclonedx warns of.
            python = [sys.executable, "-W", "ignore::UserWarning", "-m"]
            subprocess.run([*python, *command], cwd=sources, env=environment, check=True)
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(into.iterdir())
        if file.name != CHECKSUMS
    ]
    (into / CHECKSUMS).write_text("".join(lines))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        build(made)
        checksums = (made / CHECKSUMS).read_text()
        if options.compare:
            if (options.folder / CHECKSUMS).read_text() == checksums:
                print(f"a second build has the same bytes as {options.folder}")
                return 0
            print(
                f"a second build differs from {options.folder}, its files are:\n{checksums}", file=sys.stderr
            )
            return 1
        if changed := git("status", "--porcelain"):
            print(f"not in this release, because not committed:\n{changed}", file=sys.stderr)
        options.folder.mkdir(parents=True, exist_ok=True)
        for old in options.folder.iterdir():
            if old.suffix in {".whl", ".gz"} or old.name in {SBOM, CHECKSUMS}:
                old.unlink()
        for file in made.iterdir():
            shutil.copy(file, options.folder)
    print(checksums, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
