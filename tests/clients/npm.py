"""npm packages for tests, installed from their lock files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

NPM = shutil.which("npm")


def installed(package: Path) -> None:
    """Into its folder; nothing where that is done."""
    done, lock = package / "node_modules" / ".package-lock.json", package / "package-lock.json"
    if done.is_file() and done.stat().st_mtime >= lock.stat().st_mtime:
        return
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--legacy-peer-deps"]
    subprocess.run(["npm", "ci", *options], cwd=package, check=True, capture_output=True, timeout=180)
