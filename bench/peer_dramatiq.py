"""dramatiq as bench/peers.py loads it: `send` and `get_result`, with a worker process of its command line.

One process with 16 threads: tasks that do nothing gain nothing from more threads or processes.
"""

# Runs in the environment of requirements/peers.txt, which the type checker does not see.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench.peer_program import REDIS_VARIABLE, Load, loads

THREADS = 16

broker = RedisBroker(url=os.environ[REDIS_VARIABLE])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ[REDIS_VARIABLE])))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def nothing(q: int) -> None:
    del q


def main() -> None:
    command = [str(Path(sys.executable).with_name("dramatiq")), "bench.peer_dramatiq", "--processes", "1"]
    command += ["--threads", str(THREADS), "--skip-logging"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as worker, ThreadPoolExecutor(50) as clients:
        try:
            for load in loads():
                _tasks(clients, load)
        finally:
            worker.terminate()


def _tasks(clients: ThreadPoolExecutor, load: Load) -> None:
    left = itertools.count()

    def one_after_another() -> None:
        while next(left) < load.runs:
            nothing.send(1).get_result(block=True)

    for client in [clients.submit(one_after_another) for _ in range(load.at_once)]:
        client.result()


if __name__ == "__main__":
    main()
