"""The same work in procrastinate, a queue of jobs on PostgreSQL: defer, fetch and finish, and do nothing.

It is fetched for the benchmark, into an environment of its own, and runs there on the same server.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import venv
from pathlib import Path

_PROGRAM = """
import asyncio, itertools, json, sys, time
from procrastinate import App, PsycopgConnector

app = App(connector=PsycopgConnector(conninfo=sys.argv[1], min_size=4, max_size=20))
jobs, at_once = int(sys.argv[2]), int(sys.argv[3])
done = itertools.count(1)
over = asyncio.Event()
wanted = 0

@app.task(name="nothing")
async def nothing(q):
    if next(done) == wanted:
        over.set()

async def play(count):
    global wanted, done
    wanted, done = count, itertools.count(1)
    over.clear()
    left = itertools.count()
    async def defer():
        while next(left) < count:
            await nothing.defer_async(q=1)
    began = time.perf_counter()
    await asyncio.gather(*(defer() for _ in range(at_once)), over.wait())
    return time.perf_counter() - began

async def main():
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        worker = asyncio.create_task(app.run_worker_async(
            concurrency=at_once, install_signal_handlers=False, fetch_job_polling_interval=0.05))
        await play(max(jobs // 10, 1))
        took = await play(jobs)
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    print(json.dumps({"rate": jobs / took}))

asyncio.run(main())
"""


async def jobs_a_second(url: str, jobs: int, at_once: int) -> float | None:
    """None where it cannot be fetched. `url` is of a database of its own."""
    with tempfile.TemporaryDirectory(prefix="rc-bench-queue-") as folder:
        await asyncio.to_thread(venv.create, folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        if await _run(python, "-m", "pip", "install", "-q", "procrastinate", "psycopg[binary,pool]") is None:
            return None
        program = Path(folder) / "program.py"
        program.write_text(_PROGRAM, encoding="utf-8")
        output = await _run(python, str(program), url, str(jobs), str(at_once))
        return None if output is None else float(json.loads(output)["rate"])


async def _run(python: Path, *arguments: str) -> str | None:
    process = await asyncio.create_subprocess_exec(
        str(python), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode:
        print(err.decode(errors="replace")[-1000:], file=sys.stderr)
        return None
    return out.decode()
