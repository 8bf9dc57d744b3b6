"""The unmodified JavaScript client of the Runs API drives three workers, as client.test.js says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.serving import served

PACKAGE = Path(__file__).parent / "javascript"
TESTS = len(re.findall(r'^test\("', (PACKAGE / "client.test.js").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.timeout(240)
@pytest.mark.skipif(not shutil.which("npm"), reason="NOT RUN: needs node and npm: install them")
def test_the_javascript_client_drives_the_gateway() -> None:
    _install()
    with served(workers=3) as base:
        done = subprocess.run(
            ["node", "--test", "--test-reporter=tap", "client.test.js"],
            cwd=PACKAGE,
            env=os.environ | {"BASE_URL": base},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert f"# pass {TESTS}\n" in done.stdout


def _install() -> None:
    """As the package's lock says; nothing where that is done."""
    installed, lock = PACKAGE / "node_modules" / ".package-lock.json", PACKAGE / "package-lock.json"
    if installed.is_file() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--legacy-peer-deps"]
    subprocess.run(["npm", "ci", *options], cwd=PACKAGE, check=True, capture_output=True, timeout=180)
