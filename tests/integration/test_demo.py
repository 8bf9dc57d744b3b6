"""The demo: it holds, it can fail, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli.demo import claims
from coordinator.cli.demo.claims import (
    CLAIMS,
    dead_worker,
    enqueue,
    gateway,
    interrupt,
    redis_away,
    reject,
    remote_cancel,
    rollback,
)
from coordinator.cli.demo.program import demonstrate, play
from coordinator.cli.demo.report import Report, Result
from coordinator.cli.demo.screen import Silent, summarise
from coordinator.cli.failures import UNREACHABLE, CommandFailed
from coordinator.servers.process import free_port
from coordinator.servers.valkey import ValkeyServer

MAIN = "import sys; from coordinator.cli import main; sys.exit(main())"
MS = 1_000_000  # ns


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
    """Processes that have anything to do with the folder, and what lies in it."""
    files = [str(path) for path in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
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
    summarise(Report((Result(1, "cancel", "…", problems=problems),), 1.0, 0.1, True, "Valkey", 3))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("1 claims, 1 FAILED" if problems else "Next, a server to try: coordinator dev")


def refuse(evidence: Any) -> list[str]:
    del evidence
    return ["forged"]


@pytest.mark.multiprocess
async def test_a_claim_that_lacks_a_package_is_skipped_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lacking = dataclasses.replace(CLAIMS[6], needs=("json", "not_installed_at_all"))
    assert await demonstrate(None, as_json=True, claims=(lacking,)) == 0
    (claim,) = json.loads(capsys.readouterr().out)["claims"]
    assert claim["ok"] is None
    assert claim["skipped"].startswith("SKIPPED: not_installed_at_all not installed; pip install")


@pytest.mark.multiprocess
async def test_a_claim_that_does_not_hold_fails_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    broken = dataclasses.replace(CLAIMS[1], check=refuse)
    assert await demonstrate(None, as_json=True, claims=(broken,)) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["claims"][0]["problems"]) == (False, ["forged"])


@pytest.mark.multiprocess
async def test_a_step_that_breaks_fails_its_claim_and_not_the_next() -> None:
    async def break_down(stage: Any) -> None:
        await stage.c.wait("nobody")

    broken = dataclasses.replace(CLAIMS[0], measure=break_down)
    report = await play(None, Silent(), (broken, CLAIMS[3]))
    assert report.results[0].verdict == "FAILED"
    assert "worker C" in report.results[0].problems[0]
    assert report.results[1].verdict == "ok"


@pytest.mark.multiprocess
async def test_with_a_redis_of_yours_the_kill_is_skipped_loudly(
    shared_valkey: ValkeyServer, capsys: pytest.CaptureFixture[str]
) -> None:
    code = await demonstrate(shared_valkey.url, as_json=True, claims=(CLAIMS[0], CLAIMS[5]))
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert (code, [claim["ok"] for claim in report["claims"]]) == (0, [True, None])
    assert "SKIPPED" in report["claims"][1]["skipped"]
    assert "SKIPPED" in said.err
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


# ---- each check fails on forged evidence ---------------------------------------------------------------

GOOD_CANCELS = remote_cancel.Evidence((0.002,) * 60, (0.003,) * 60, ("interrupted",) * 60)
WON, LOST = reject.Asked("A", 5 * MS, "r1"), reject.Asked("B", 6 * MS, None, "ConflictError", "r1")
GOOD_ROUND = (WON, LOST, dataclasses.replace(LOST, worker="C"))
GOOD_REJECT = reject.Evidence((GOOD_ROUND,) * reject.ROUNDS)
GOOD_SWAP = interrupt.Replaced(0, 310 * MS, 312 * MS, "A", "B", "interrupted", "success")
GOOD_INTERRUPT = interrupt.Evidence((GOOD_SWAP,) * interrupt.ROUNDS)
GOOD_RESTORE = rollback.Restored({"n": 1}, {"n": -1}, {"n": 1}, {"n": 1}, 0.01, "A", "B")
GOOD_ROLLBACK = rollback.Evidence((GOOD_RESTORE,) * rollback.ROUNDS)
TURNS = tuple(
    enqueue.Turn(f"r{number}", "ABC"[number % 3], number * 30 * MS, number * 30 * MS + 20 * MS)
    for number in range(enqueue.RUNS + 1)
)
GOOD_ENQUEUE = enqueue.Evidence(tuple(turn.run_id for turn in TURNS), TURNS)
STRATEGIES: dict[str, str] = dict.fromkeys(("reject", "interrupt", "rollback", "enqueue"), "ok")
GOOD_REDIS = redis_away.Evidence(0.01, (0.4,) * redis_away.CANCELS, STRATEGIES, 0.5, (0.002,) * 5)
ROW = {"run_id": "r", "status": "running", "epoch": 1, "fence": 1}
GOOD_GATEWAY = gateway.Evidence(
    workers=gateway.WORKERS,
    told=(1, 2, 3, 4, 5),
    joined=("run:1",) * 5,
    cancels=(0.02,) * gateway.CANCELS,
    statuses=("interrupted",) * gateway.CANCELS,
    epochs=frozenset({1, 3}),
    left=0.4,
    status=0,
)
GOOD_CRASH = dead_worker.Evidence(("error",) * 3, ("orphaned",) * 3, 4.0, ("ok",) * 3, (ROW,) * 6, (ROW,) * 6)

GOOD = [
    GOOD_CANCELS,
    GOOD_REJECT,
    GOOD_INTERRUPT,
    GOOD_ROLLBACK,
    GOOD_ENQUEUE,
    GOOD_REDIS,
    GOOD_GATEWAY,
    GOOD_CRASH,
]


@pytest.mark.parametrize(
    ("claim", "evidence"), list(zip(CLAIMS, GOOD, strict=True)), ids=lambda x: getattr(x, "name", "")
)
def test_a_check_accepts_what_holds(claim: claims.Claim, evidence: Any) -> None:
    assert claim.check(evidence) == []
    figures = claim.figures(evidence)
    assert figures.text
    json.dumps(figures.measured)


def forged(good: Any, **changes: Any) -> Any:
    return dataclasses.replace(good, **changes)


def one(good: tuple[Any, ...], **changes: Any) -> tuple[Any, ...]:
    """The first of them forged."""
    return (forged(good[0], **changes), *good[1:])


SWAPS, RESTORES = GOOD_INTERRUPT.rounds, GOOD_ROLLBACK.rounds
LATE = forged(TURNS[1], started=TURNS[0].started)

FORGED: list[tuple[int, Any]] = [
    (0, forged(GOOD_CANCELS, delivered=(0.002,) * 20)),
    (0, forged(GOOD_CANCELS, delivered=(0.002,) * 50 + (0.9,) * 10, freed=(1.0,) * 60)),
    (0, forged(GOOD_CANCELS, statuses=("success", *GOOD_CANCELS.statuses[1:]))),
    (0, forged(GOOD_CANCELS, statuses=())),
    (0, forged(GOOD_CANCELS, freed=(0.001,) * 60)),
    (0, remote_cancel.Evidence((), (), ())),
    (1, forged(GOOD_REJECT, rounds=((WON, forged(WON, worker="B"), LOST), *GOOD_REJECT.rounds[1:]))),
    (1, forged(GOOD_REJECT, rounds=((LOST, LOST, LOST), *GOOD_REJECT.rounds[1:]))),
    (1, forged(GOOD_REJECT, rounds=((WON, LOST, forged(LOST, active="other")), *GOOD_REJECT.rounds[1:]))),
    (1, forged(GOOD_REJECT, rounds=((WON, LOST, forged(LOST, kind="Draining")), *GOOD_REJECT.rounds[1:]))),
    (1, forged(GOOD_REJECT, rounds=GOOD_REJECT.rounds[1:])),
    (1, forged(GOOD_REJECT, rounds=((WON, LOST, forged(LOST, called=900 * MS)),) * reject.ROUNDS)),
    (2, forged(GOOD_INTERRUPT, rounds=one(SWAPS, new_started=300 * MS))),
    (2, forged(GOOD_INTERRUPT, rounds=one(SWAPS, old_stopped=10 * MS))),
    (2, forged(GOOD_INTERRUPT, rounds=one(SWAPS, new_worker="A"))),
    (2, forged(GOOD_INTERRUPT, rounds=one(SWAPS, old_status="success"))),
    (2, forged(GOOD_INTERRUPT, rounds=one(SWAPS, new_started=9_000 * MS))),
    (2, interrupt.Evidence(())),
    (3, forged(GOOD_ROLLBACK, rounds=one(RESTORES, found={"n": -1}))),
    (3, forged(GOOD_ROLLBACK, rounds=one(RESTORES, after={"n": -1}))),
    (3, forged(GOOD_ROLLBACK, rounds=one(RESTORES, during={"n": 1}))),
    (3, forged(GOOD_ROLLBACK, rounds=one(RESTORES, new_worker="A"))),
    (3, forged(GOOD_ROLLBACK, rounds=one(RESTORES, took=9.0))),
    (3, rollback.Evidence(())),
    (4, forged(GOOD_ENQUEUE, turns=(TURNS[1], TURNS[0], *TURNS[2:]))),
    (4, forged(GOOD_ENQUEUE, turns=(TURNS[0], LATE, *TURNS[2:]))),
    (4, forged(GOOD_ENQUEUE, turns=tuple(forged(turn, worker="A") for turn in TURNS))),
    (4, enqueue.Evidence((), ())),
    (5, forged(GOOD_REDIS, cancels=(0.4,) * 9 + (5.0,))),
    (5, forged(GOOD_REDIS, cancels=())),
    (5, forged(GOOD_REDIS, strategies=STRATEGIES | {"rollback": "left {}"})),
    (5, forged(GOOD_REDIS, strategies={})),
    (5, forged(GOOD_REDIS, healed=3.0)),
    (5, forged(GOOD_REDIS, after=(0.002,) * 4 + (0.4,))),
    (5, forged(GOOD_REDIS, after=())),
    (6, forged(GOOD_GATEWAY, workers=2)),
    (6, forged(GOOD_GATEWAY, told=(1, 2, 4, 5))),
    (6, forged(GOOD_GATEWAY, joined=("run:1",))),
    (6, forged(GOOD_GATEWAY, cancels=(0.02,) * 10 + (2.0,) * 10)),
    (6, forged(GOOD_GATEWAY, cancels=())),
    (6, forged(GOOD_GATEWAY, statuses=("success", *GOOD_GATEWAY.statuses[1:]))),
    (6, forged(GOOD_GATEWAY, statuses=())),
    (6, forged(GOOD_GATEWAY, epochs=frozenset({1}))),
    (6, forged(GOOD_GATEWAY, status=None)),
    (6, forged(GOOD_GATEWAY, left=6.0)),
    (7, forged(GOOD_CRASH, ended=("error", "running", "error"))),
    (7, forged(GOOD_CRASH, causes=("orphaned", "user", "orphaned"))),
    (7, forged(GOOD_CRASH, took=60.0)),
    (7, forged(GOOD_CRASH, freed=("ok", "Thread already has an active run", "ok"))),
    (7, forged(GOOD_CRASH, after=({**ROW, "fence": 2}, *(ROW,) * 5))),
    (
        7,
        forged(GOOD_CRASH, before=({**ROW, "status": "error"},) * 6, after=({**ROW, "status": "error"},) * 6),
    ),
    (7, forged(GOOD_CRASH, ended=(), causes=(), freed=())),
]


@pytest.mark.parametrize(("number", "evidence"), FORGED)
def test_a_check_refuses_what_is_forged(number: int, evidence: Any) -> None:
    assert CLAIMS[number].check(evidence) != []
