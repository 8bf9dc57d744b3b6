"""`python -m tests.contract FOLDER [--without-redis] [--graph] [PYTEST ARGUMENT ...]`: a folder of tests.

They are run against three workers, with a Redis of their own or with nothing but an SQLite file. With
`--graph` the assistant is the graph of `contract_graph`, else the demo assistant.

The folder belongs to another project. Its tests send HTTP requests to the address in BASE_URL, and have a
configuration of their own. The folder is only read.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from tests.support.served import served

WITHOUT_REDIS = "--without-redis"
GRAPH = "--graph"
GRAPHS = Path(__file__).resolve().parent / "contract_graph" / "langgraph.json"


def main(arguments: list[str]) -> int:
    if not arguments or not (Path(arguments[0]) / "pytest.ini").is_file():
        given = arguments[0] if arguments else "nothing"
        sys.stderr.write(f"contract: give a folder of tests with a pytest.ini, not {given!r}\n")
        return 2
    folder, *more = arguments
    with tempfile.TemporaryDirectory() as scratch:
        options: tuple[str, ...] = ()
        if WITHOUT_REDIS in more:
            more.remove(WITHOUT_REDIS)
            options = ("--store", f"sqlite:///{scratch}/runs.db")
        if GRAPH in more:
            more.remove(GRAPH)
            options = (str(GRAPHS), "--no-demo-assistant", *options)
        return asyncio.run(drive(Path(folder).resolve(), more, Path(scratch), options))


async def drive(folder: Path, more: list[str], scratch: Path, serving: tuple[str, ...]) -> int:
    """A server brings a Redis along where no store is named."""
    # Neither the project's plugins for its own tests nor a cache in a folder that is not ours.
    options = ["-c", str(folder / "pytest.ini"), "--rootdir", str(folder)]
    options += ["-p", "no:cacheprovider", "-p", "no:randomly", *more]
    async with served("serve", "--workers", "3", *serving, folder=scratch) as server:
        environment = os.environ | {"BASE_URL": await server.up(), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", *options, str(folder)]
        tests = await asyncio.create_subprocess_exec(*command, env=environment)
        return await tests.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
