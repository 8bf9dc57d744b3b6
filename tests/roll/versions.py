"""The last release beside the working tree: where each version's packages are, and its worker processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build" / "roll"
BASELINE = (ROOT / "tests" / "roll" / "BASELINE").read_text().strip()
"""The commit of the last release; until there is one, the state that the schema's rules begin with."""
_WITHIN = 40.0  # s, for an answer


class NoBaseline(Exception):
    """The commit is not in the history that is here."""


class RemoteError(Exception):
    """A worker's answer is an error: the name of its class and its text."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind, self.text = kind, text
        super().__init__(f"{kind}: {text}")


def unpack(folder: Path, *paths: str) -> None:
    """These files of the baseline, or all. Raises NoBaseline."""
    command = ["git", "archive", BASELINE, *paths]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        raise NoBaseline(
            f"commit {BASELINE} (tests/roll/BASELINE) is not in this clone: fetch the whole history"
            " (git fetch --unshallow)"
        )
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")


def packages() -> Path:
    """A folder with the packages of the baseline, from a wheel that its own build made. Raises NoBaseline."""
    folder = BUILT / BASELINE
    if (folder / "coordinator" / "__init__.py").is_file():
        return folder
    source, made = BUILT / "source", BUILT / "unpacked"
    for used in (source, made):
        shutil.rmtree(used, ignore_errors=True)
    unpack(source)
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--quiet",
        "--outdir",
        source / "dist",
    ]
    subprocess.run(build, cwd=source, check=True)
    (wheel,) = (source / "dist").glob("*.whl")
    shutil.unpack_archive(wheel, made, "zip")
    made.rename(folder)
    shutil.rmtree(source)
    return folder


class Worker:
    """A process that `tests/roll/worker.py` is. `epoch` once it has started."""

    def __init__(self, label: str, process: asyncio.subprocess.Process) -> None:
        self.label, self.process, self.epoch = label, process, 0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.reading = asyncio.create_task(self._read())

    async def started(self) -> None:
        self.epoch = await self._answer(0)

    async def do(self, code: str, **values: Any) -> Any:
        """Returns what the body of a function returns in the worker. Raises RemoteError."""
        number = max(self._answers, default=0) + 1
        answer = self._answer(number)
        line = json.dumps({"id": number, "code": code, "values": values})
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        return await answer

    def _answer(self, number: int) -> Any:
        self._answers[number] = asyncio.get_running_loop().create_future()
        return asyncio.wait_for(self._answers[number], _WITHIN)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            message = json.loads(line)
            answer = self._answers[message["id"]]
            if answer.done():
                continue
            if "error" in message:
                answer.set_exception(RemoteError(message["error"], message["text"]))
            else:
                answer.set_result(message["answer"])
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(RemoteError("Gone", f"worker {self.label} has ended"))

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def end(self) -> int:
        """Closes its input, so that it shuts down. Its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            async with asyncio.timeout(_WITHIN):
                code = await self.process.wait()
        except TimeoutError:
            await self.kill()
            raise
        await self.reading
        for answer in self._answers.values():  # no caller waits for the last answers
            if answer.done() and not answer.cancelled():
                answer.exception()
        return code


@asynccontextmanager
async def worker(label: str, where: Path, settings: dict[str, Any]) -> AsyncGenerator[Worker]:
    """Started, and gone at the end."""
    setup = json.dumps({"label": label, "settings": settings})
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "tests" / "roll" / "worker.py"),
        setup,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=2**22,
        env={**os.environ, "PYTHONPATH": str(where)},
    )
    made = Worker(label, process)
    try:
        await made.started()
        yield made
    finally:
        if process.returncode is None:
            await made.end()
        await made.reading
