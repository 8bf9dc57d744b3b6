"""The unmodified JavaScript client of the Runs API runs client.test.js against three workers."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

from tests.clients.npm import NPM, installed
from tests.support.served import served

PACKAGE = Path(__file__).parent / "javascript"
TESTS = len(re.findall(r'^test\("', (PACKAGE / "client.test.js").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.timeout(240)
@pytest.mark.skipif(not NPM, reason="NOT RUN: needs node and npm: install them")
async def test_javascript_client_works_with_the_gateway(tmp_path: Path) -> None:
    installed(PACKAGE)
    async with served("serve", "--workers", "3", folder=tmp_path) as server:
        tests = await asyncio.create_subprocess_exec(
            *("node", "--test", "--test-reporter=tap", "client.test.js"),
            cwd=PACKAGE,
            env=os.environ | {"BASE_URL": await server.up()},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(120):
            output = (await tests.communicate())[0].decode()
    assert tests.returncode == 0, output[-6000:]
    assert f"# pass {TESTS}\n" in output
