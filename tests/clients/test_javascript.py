"""The unmodified JavaScript client of the Runs API drives three workers, as client.test.js says."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.served import served

PACKAGE = Path(__file__).parent / "javascript"
TESTS = len(re.findall(r'^test\("', (PACKAGE / "client.test.js").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.timeout(240)
@pytest.mark.skipif(not shutil.which("npm"), reason="NOT RUN: needs node and npm: install them")
async def test_the_javascript_client_drives_the_gateway(tmp_path: Path) -> None:
    _install()
    async with served("serve", "--workers", "3", folder=tmp_path) as server:
        tests = await asyncio.create_subprocess_exec(
            *("node", "--test", "--test-reporter=tap", "client.test.js"),
            cwd=PACKAGE,
            env=os.environ | {"BASE_URL": await server.up()},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(120):
            said = (await tests.communicate())[0].decode()
    assert tests.returncode == 0, said[-6000:]
    assert f"# pass {TESTS}\n" in said


def _install() -> None:
    """As the package's lock says; nothing where that is done."""
    installed, lock = PACKAGE / "node_modules" / ".package-lock.json", PACKAGE / "package-lock.json"
    if installed.is_file() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--legacy-peer-deps"]
    subprocess.run(["npm", "ci", *options], cwd=PACKAGE, check=True, capture_output=True, timeout=180)
