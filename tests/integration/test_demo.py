"""The demo: it holds, it can fail, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator import testing
from coordinator.cli.demo import claims
from coordinator.cli.demo.claims import CLAIMS, Claim, ClaimFailed, Figures
from coordinator.cli.demo.program import demonstrate, play, summarise
from coordinator.cli.demo.stage import Message, Refused, Stage
from coordinator.cli.demo.worker import Worker
from coordinator.cli.failures import UNREACHABLE, CommandFailed
from coordinator.servers.process import free_port
from coordinator.servers.valkey import ValkeyServer

MAIN = "import sys; from coordinator.cli import main; sys.exit(main())"


async def start(*arguments: str, folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        MAIN,
        "demo",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(folder)},
        preexec_fn=interruptible,
    )


def interruptible() -> None:
    """A shell lets what it runs in the background ignore SIGINT, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def left_in(folder: Path) -> list[str]:
    """Processes whose temporary files go there, and what lies in it."""
    files = [str(path) for path in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if f"TMPDIR={folder}".encode() in environment.split(b"\0"):
            files.append(command)
    return files


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.timeout(120)
async def test_all_eight_claims_hold(tmp_path: Path) -> None:
    began = time.monotonic()
    process = await start("--json", folder=tmp_path)
    out, err = await process.communicate()
    report = json.loads(out)
    assert process.returncode == 0, (report, err)
    assert report["ok"]
    assert report["store"] == "SQLite"
    assert [claim["ok"] for claim in report["claims"]] == [True] * 8
    assert [claim["number"] for claim in report["claims"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert report["claims"][0]["measured"]["delivered"]["count"] >= 50
    assert report["claims"][5]["measured"]["healed_s"] <= 2.0
    assert time.monotonic() - began < 60
    assert left_in(tmp_path) == []


@pytest.mark.slow
@pytest.mark.multiprocess
async def test_on_postgres(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that differ with the store: what travels, what is put back, and how a death is found out."""
    shown = tuple(claim for claim in CLAIMS if claim.name in ("cancel", "rollback", "crash"))
    assert await demonstrate(None, as_json=True, on_postgres=True, claims=shown) == 0
    report = json.loads(capsys.readouterr().out)
    assert [claim["ok"] for claim in report["claims"]] == [True] * 3
    assert report["store"].startswith("PostgreSQL ")


@pytest.mark.parametrize("problems", [(), ("forged",)], ids=["all hold", "one failed"])
def test_it_ends_with_what_to_run_next(
    problems: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (program := tmp_path / "coordinator").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    claim = {"number": 1, "claim": "…", "ok": not problems, "skipped": None, "problems": problems, "text": ""}
    redis = {"own": True, "version": "Valkey"}
    where = {"redis": redis, "store": "SQLite", "workers": 3}
    summarise({"claims": [{**claim, "seconds": 1.0}], "seconds": 1.0, **where})
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("1 claims, 1 FAILED" if problems else "Next, a server to try: coordinator dev")


async def refuse(stage: Stage) -> Figures:
    raise ClaimFailed("forged")


@pytest.mark.multiprocess
async def test_a_claim_that_lacks_a_package_is_skipped_with_its_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lacking = dataclasses.replace(CLAIMS[6], needs=("json", "not_installed_at_all"))
    assert await demonstrate(None, as_json=True, claims=(lacking,)) == 0
    (claim,) = json.loads(capsys.readouterr().out)["claims"]
    assert claim["ok"] is None
    assert claim["skipped"].startswith("SKIPPED: not_installed_at_all not installed; pip install")


@pytest.mark.multiprocess
async def test_a_claim_that_does_not_hold_fails_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    broken = dataclasses.replace(CLAIMS[1], show=refuse)
    assert await demonstrate(None, as_json=True, claims=(broken,)) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["claims"][0]["problems"]) == (False, ["forged"])


@pytest.mark.multiprocess
async def test_a_step_that_breaks_fails_its_claim_and_not_the_next() -> None:
    async def break_down(stage: Stage) -> Figures:
        await stage.c.call("wait", run_id="unknown")
        raise AssertionError

    broken = dataclasses.replace(CLAIMS[0], show=break_down)
    report = await play((broken, CLAIMS[3]), None, silent=True)
    first, second = report["claims"]
    assert (first["ok"], second["ok"]) == (False, True)
    assert "worker C" in first["problems"][0]


@pytest.mark.multiprocess
async def test_with_a_redis_of_yours_the_kill_is_skipped_loudly(
    shared_valkey: ValkeyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    code = await demonstrate(shared_valkey.url, as_json=True, claims=(CLAIMS[0], CLAIMS[5]))
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert (code, [claim["ok"] for claim in report["claims"]]) == (0, [True, None])
    assert "SKIPPED" in report["claims"][1]["skipped"]
    assert "SKIPPED" in output.err
    assert shared_valkey.command("PING") == b"+PONG\r\n"


async def test_a_redis_that_does_not_answer_is_unreachable() -> None:
    with pytest.raises(CommandFailed) as failed:
        await demonstrate(f"redis://127.0.0.1:{free_port()}", as_json=True)
    assert failed.value.code == UNREACHABLE


@pytest.mark.multiprocess
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
async def test_interrupted_it_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    process = await start(folder=tmp_path)
    assert process.stdout is not None
    while b"[2/8]" not in (line := await process.stdout.readline()):
        assert line
    process.send_signal(number)
    await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 130
    assert left_in(tmp_path) == []


# ---- each claim fails where its promise is broken --------------------------------------------------------

Forge = Callable[[Message], Message]


class Member:
    """A worker of the demo within this process. `forge`: changes to what it answers, by method."""

    alive, epoch, pid = True, 1, 1

    def __init__(self, name: str, cluster: testing.Cluster, stage: InMemory) -> None:
        self.name, self.connectivity = name, "connected"
        self._cluster, self._stage = cluster, stage
        self._manager = cluster.workers["ABC".index(name)]
        self._worker = Worker(self._manager, self._note)

    def _note(self, message: Message) -> None:
        self._stage.note(self._stage.forge.get(message["moment"], same)({**message, "worker": self.name}))

    async def call(self, do: str, **arguments: Any) -> Message:
        if do == "state":
            return {"connectivity": "connected" if self._stage.up else "down"}
        answer = self._stage.forge.get(do, same)(await self._worker.answer(do, **arguments))
        if "refused" in answer:
            raise Refused(self.name, answer)
        return answer

    async def kill(self) -> None:
        await self._cluster.crash(self._manager)


class InMemory(Stage):
    """The stage without processes and servers."""

    def __init__(self, folder: Path, cluster: testing.Cluster, forge: dict[str, Forge]) -> None:
        super().__init__(folder, None, None, None)
        members: list[Any] = [Member(name, cluster, self) for name in "ABC"]
        self.workers = self.a, self.b, self.c = members
        self.forge, self.up = forge, True
        self.server: Any = self

    url = "redis://nowhere"

    def kill(self) -> None:
        self.up = False

    def start(self) -> None:
        self.up = True


def same(message: Message) -> Message:
    return message


def forged(**changes: Any) -> Forge:
    """A function is called with the message, and returns the value."""
    return lambda message: (
        message | {name: value(message) if callable(value) else value for name, value in changes.items()}
    )


def later(seconds: float, name: str = "at") -> Callable[[Message], float]:
    return lambda message: message[name] + seconds


@asynccontextmanager
async def in_memory(folder: Path, forge: dict[str, Forge]) -> AsyncGenerator[InMemory]:
    async with testing.cluster(workers=3) as cluster:
        yield InMemory(folder, cluster, forge)


PLAYED = [claim for claim in CLAIMS if claim.name != "gateway"]


@pytest.mark.parametrize("claim", PLAYED, ids=lambda claim: claim.name)
async def test_claim_holds_in_memory(claim: Claim, tmp_path: Path, no_task_left: None) -> None:
    async with in_memory(tmp_path, {}) as stage:
        text, measured = await claim.show(stage)
    assert text
    json.dumps(measured)


def won_twice(answer: Message) -> Message:
    return {**answer, "run_id": "forged"} if answer.pop("refused", None) else answer


def lost(answer: Message) -> Message:
    return {**answer, "refused": "ConflictError", "active_run_id": "other", "message": "…"}


def refused_with(**changes: Any) -> Forge:
    return lambda answer: answer | changes if "refused" in answer else answer


def spoilt_at_the_end(answer: Message) -> Message:
    values: Any = answer["values"]
    return answer | {"values": {"n": -1}} if values["n"] == 0 else answer


def only_for(run: str, forge: Forge) -> Forge:
    """Of the runs of a claim: the first or the later ones."""
    first: list[str] = []

    def change(message: Message) -> Message:
        first.append(message["run_id"])
        return forge(message) if (message["run_id"] == first[0]) == (run == "first") else message

    return change


def apart() -> Forge:
    calls = itertools.count()
    return lambda answer: answer | {"called": answer["called"] + next(calls)}


NUMBERS = itertools.count()
ANSWERED_LATE = forged(answered=later(9, "called"))


def another_one(_: Message) -> int:
    return next(NUMBERS)


FORGED: list[tuple[str, str, dict[str, Forge]]] = [
    (
        "cancel",
        "took more than",
        {"cancelled": forged(at=later(0.3)), "cancel": ANSWERED_LATE},
    ),
    ("cancel", "before its task", {"cancel": forged(answered=later(0, "called"))}),
    ("cancel", "ended as success", {"wait": forged(status="success")}),
    ("reject", "3 of 3 workers won", {"admit": won_twice}),
    ("reject", "0 of 3 workers won", {"admit": lost}),
    ("reject", "refused with", {"admit": refused_with(active_run_id="other")}),
    ("reject", "refused with", {"admit": refused_with(refused="Draining")}),
    ("reject", "took more than", {"admit": apart()}),
    ("interrupt", "before the old task", {"started": only_for("later", forged(at=later(-9)))}),
    ("interrupt", "take its time", {"cancelled": forged(at=later(1))}),
    ("interrupt", "on worker X", {"started": forged(worker="X"), "stopped": forged(worker="X")}),
    ("interrupt", "ended as", {"wait": forged(status="success")}),
    ("interrupt", "took more than", {"started": forged(at=later(9))}),
    ("rollback", "at the start of the new run", {"started": forged(values={"n": -1})}),
    ("rollback", "after", {"thread": spoilt_at_the_end}),
    ("rollback", "during", {"thread": forged(values={"messages": ["hello"], "n": 0})}),
    ("rollback", "on worker X", {"started": forged(worker="X"), "stopped": forged(worker="X")}),
    ("rollback", "took more than", {"started": forged(at=later(9))}),
    ("enqueue", "in the order", {"started": only_for("first", forged(at=later(9)))}),
    ("enqueue", "at the same time", {"started": only_for("later", forged(at=later(-0.2)))}),
    ("enqueue", "three workers", {"started": forged(worker="A")}),
    ("enqueue", "took more than", {"stopped": forged(at=later(-9))}),
    (
        "redis",
        "took more than",
        {"cancelled": forged(at=later(5)), "cancel": ANSWERED_LATE},
    ),
    ("redis", "reject without Redis", {"admit": refused_with(refused="Draining")}),
    ("redis", "rollback without Redis", {"thread": forged(values={})}),
    ("crash", "ended as", {"wait": forged(status="success")}),
    ("crash", "ended as", {"wait": forged(cause="user")}),
    ("crash", "were touched", {"run": forged(owner=another_one)}),
    ("crash", "of other workers stopped", {"run": forged(status="error")}),
]


@pytest.mark.parametrize(("name", "problem", "forge"), FORGED)
async def test_claim_fails_where_its_promise_is_broken(
    name: str, problem: str, forge: dict[str, Forge], tmp_path: Path
) -> None:
    (claim,) = (claim for claim in CLAIMS if claim.name == name)
    async with in_memory(tmp_path, forge) as stage:
        with pytest.raises(ClaimFailed, match=problem):
            await claim.show(stage)


async def test_way_back_of_redis_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with in_memory(tmp_path, {}) as stage:
        late = [0]

        async def back(within: float, *, connected: bool = True) -> None:
            late[0] += 60 * connected

        monkeypatch.setattr(stage, "await_connectivity", back)
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late[0])
        monkeypatch.setattr(claims, "time", clock)
        with pytest.raises(ClaimFailed, match="the way back took more than"):
            await claims.redis_away(stage)


class Client:
    """As langgraph_sdk's, over runs that are made up."""

    def __init__(self, **lies: Any) -> None:
        truth: dict[str, Any] = {"steps": [1, 2, 3, 4, 5], "log": ["…"] * 5, "status": "interrupted"}
        answers: dict[str, Any] = {"epochs": itertools.cycle((1, 2, 3)), "workers": [None] * 3}
        self._answers = truth | answers | lies
        self.threads = self.runs = self.http = self

    async def create(self, *_: Any, **__: Any) -> dict[str, str]:
        return {"thread_id": "t", "run_id": "r"}

    async def stream(self, *_: Any, **__: Any) -> AsyncGenerator[Any]:
        yield SimpleNamespace(event="metadata", data={"run_id": "r"})
        for step in self._answers["steps"]:
            yield SimpleNamespace(event="values", data={"done": step})

    async def join(self, *_: Any) -> dict[str, Any]:
        return {"log": self._answers["log"]}

    async def cancel(self, *_: Any, **__: Any) -> None:
        """It has stopped."""

    async def get(self, path: str, *_: Any) -> Any:
        if path.endswith("/explain"):
            return {"timeline": [{"what": "started", "epoch": next(self._answers["epochs"])}]}
        return self._answers["workers"] if path.endswith("/workers") else {"status": self._answers["status"]}


async def test_gateway_is_driven() -> None:
    assert len(await claims.drive(Client(), Client())) == 20


@pytest.mark.parametrize(
    ("problem", "lies"),
    [
        ("the stream has", {"steps": [1, 2, 4, 5]}),
        ("1 of 5 steps", {"log": ["…"]}),
        ("ended as success", {"status": "success"}),
        ("one worker ran all", {"epochs": itertools.repeat(1)}),
        ("2 workers instead of 3", {"workers": [None] * 2}),
    ],
)
async def test_gateway_that_breaks_its_promise_fails_the_claim(problem: str, lies: dict[str, Any]) -> None:
    with pytest.raises(ClaimFailed, match=problem):
        await claims.drive(Client(**lies), Client(**lies))


def test_figures_that_are_missing_hold_no_limit() -> None:
    with pytest.raises(ClaimFailed):
        claims.must_take("nothing", [], 1.0)
