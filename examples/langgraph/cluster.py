"""Serves this folder with three workers on one port and a temporary PostgreSQL, which ends with them.

    python examples/langgraph/cluster.py

Needs `[embedded]`, whose PostgreSQL is installed by pip. One of your own needs no script: name it in
COORDINATOR_STORE or --store, and start `coordinator serve examples/langgraph --workers 3`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from coordinator.servers.postgres import PostgresServer

FOLDER = Path(__file__).parent
COORDINATOR = "import sys; from coordinator.cli import main; sys.exit(main())"


def main(options: list[str]) -> int:
    """`options`: further options of the command. Ctrl-C and SIGTERM stop both servers."""
    with PostgresServer() as postgres:
        # In the environment, because other users can read arguments, and the URL has a password.
        variables = os.environ | {"COORDINATOR_STORE": postgres.url()}
        command = [sys.executable, "-c", COORDINATOR, "serve", str(FOLDER), "--workers", "3", *options]
        server = subprocess.Popen(command, env=variables)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the server as well
        signal.signal(signal.SIGTERM, lambda number, _: server.send_signal(number))
        return server.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
