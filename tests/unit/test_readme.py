"""The documents hold what they promise: their examples run, their commands exist, their links resolve."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from coordinator import RunContext
from coordinator.servers.valkey import ValkeyServer
from tests.support.gateways import one_gateway
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCUMENTS = [
    README,
    *(ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMANDED = [*DOCUMENTS, ROOT / "docker-compose.yml", ROOT / "Dockerfile"]

EXAMPLE = """\
async with open_coordinator("sqlite:///runs.db", redis="redis://localhost") as manager:      # a RunManager
    run = await manager.create_or_reject("thread-1", "agent", kwargs={"q": "…"}, multitask_strategy="interrupt")
    manager.launch(run, agent)                    # async def agent(ctx: RunContext) -> result; waits for its turn, then runs
    await manager.cancel(run.run_id, reason="user pressed stop", actor="u1", wait=5)
    result = await manager.wait(run.run_id)       # from any worker
"""  # noqa: E501 - word for word

GATEWAY = "http://127.0.0.1:2024"
"""Where examples find a gateway with the demo assistant."""

PLACEHOLDER = re.compile(r"[A-Z]+")


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of that language, as they stand."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)


# -- examples

EXAMPLED = [document for document in DOCUMENTS if blocks(document, "python")]


def test_the_example_is_the_one_of_the_design() -> None:
    assert EXAMPLE in blocks(README, "python")


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, namespace: str) -> None:
    """A folder and a namespace of the test's own: examples name their store by a relative path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COORDINATOR_NAMESPACE", namespace)


async def run_examples(document: Path, redis: str, gateway: str = GATEWAY) -> dict[str, Any]:
    """Run the document's blocks one after another, as one program that may await at its top level."""
    names: dict[str, Any] = {"__name__": document.stem}
    for number, block in enumerate(blocks(document, "python"), start=1):
        source = block.replace("redis://localhost", redis).replace(GATEWAY, gateway)
        tree = compile(
            source,
            f"{document.name}, block {number}",
            "exec",
            ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        done = FunctionType(tree, names)()
        if inspect.isawaitable(done):
            await done
    return names


@pytest.mark.parametrize("document", EXAMPLED, ids=name_of)
async def test_examples_run(
    document: Path, shared_valkey: ValkeyServer, somewhere: None, no_task_left: None
) -> None:
    if GATEWAY not in document.read_text():  # noqa: ASYNC240 - a small file, before anything runs
        await run_examples(document, shared_valkey.url)
        return
    async with one_gateway() as served:
        await run_examples(document, shared_valkey.url, served.url)


async def test_the_example_cancels_its_run(
    shared_valkey: ValkeyServer, somewhere: None, no_task_left: None
) -> None:
    names = await run_examples(README, shared_valkey.url)

    assert names["run"].status == "interrupted"
    assert names["run"].task.done()
    assert names["result"] is None


async def test_a_day_with_two_workers_takes_50_ms(
    shared_valkey: ValkeyServer, somewhere: None, no_task_left: None
) -> None:
    """Of processor time, for others want the processor too; and it waits for none of the day. The best of
    several."""
    names = await run_examples(ROOT / "docs" / "guides" / "testing.md", shared_valkey.url)
    took: list[tuple[float, float]] = []
    while len(took) < 20 and min(took, default=(1.0, 1.0))[0] > 0.05:
        cpu, wall = time.process_time(), time.monotonic()
        await names["test_a_day"]()
        took.append((time.process_time() - cpu, time.monotonic() - wall))
    assert min(took)[0] <= 0.05, took
    assert min(wall for _, wall in took) < 10, took


async def test_both_ways_to_check_a_webhook_hold(
    shared_valkey: ValkeyServer, somewhere: None, no_task_left: None
) -> None:
    from pydantic import SecretStr

    from coordinator.webhooks.signing import Signer

    guide = ROOT / "docs" / "guides" / "webhooks.md"
    async with one_gateway() as served:
        names = await run_examples(guide, shared_valkey.url, served.url)
    sign = Signer.of(SecretStr(f"another-secret-of-16-bytes {names['SECRET']}")).headers
    good = sign("r1", b"{}", now=time.time())
    assert names["received"](good, b"{}") == names["received"](good, b"{}") == 204
    assert names["seen"] == {"r1"}
    assert names["is_signed"](names["SECRET"], good, b"{}")
    for headers, body in ((good, b"{ }"), (sign("r1", b"{}", now=time.time() - 301), b"{}")):
        assert names["received"](headers, body) == 401
        assert not names["is_signed"](names["SECRET"], headers, body)


async def emits_once(ctx: RunContext) -> None:
    await ctx.emit("custom", 1)


async def test_the_acl_line_is_enough(own_valkey: ValkeyServer, somewhere: None, no_task_left: None) -> None:
    from coordinator import open_coordinator
    from coordinator.notifier import Connectivity
    from coordinator.settings import Settings

    (line,) = re.findall(r"^ACL SETUSER .*$", README.read_text(), re.MULTILINE)
    words = line.replace("PASSWORD", "secret").split()
    assert own_valkey.command(*words) == b"+OK\r\n"
    url = own_valkey.url.replace("redis://", "redis://coordinator:secret@")

    settings = Settings(redis=url, namespace="rc")
    async with open_coordinator(settings=settings) as one, open_coordinator(settings=settings) as other:
        for manager in (one, other):
            await wait_until(
                lambda manager=manager: manager.worker.connectivity is Connectivity.connected,
                description="connected as the user of the ACL line",
            )
        run = await one.create_or_reject("thread-1")
        await other.cancel(run.run_id, wait=5)
        emitting = await one.create_or_reject("thread-2")
        one.launch(emitting, emits_once)
        assert len([event async for event in other.follow(emitting.run_id)]) == 2
    assert own_valkey.command("ACL", "LOG") == b"*0\r\n", "something was refused"


# -- commands


def commands(document: Path) -> Iterator[list[str]]:
    """Every `coordinator …` that stands alone in code: a line of a block, or a span."""
    text = document.read_text()
    spans = re.findall(r"`(coordinator [^`]+)`", text)
    lines = re.findall(r"^(?:\s*CMD |.*docker compose exec \S+ )?(coordinator [a-z].*)$", text, re.MULTILINE)
    lines += [f"coordinator {rest}" for rest in re.findall(r"^\s+command: (serve.*)$", text, re.MULTILINE)]
    lines += re.findall(r"\"(coordinator [^|\"]+)", text)
    for command in spans + lines:
        yield shlex.split(command.split("|")[0], comments=True)[1:]


def what_is_unknown(words: list[str]) -> str | None:
    """The first word or option that the command line does not know."""
    pytest.importorskip("typer")
    from typer.main import get_command

    from coordinator.cli.app import app

    known: Any = get_command(app)
    for word in words:
        options = {
            name for parameter in known.params for name in (*parameter.opts, *parameter.secondary_opts)
        }
        if word.startswith("-"):
            if word not in options | {"-h", "--help"}:
                return word
        elif subcommands := getattr(known, "commands", None):
            if word not in subcommands:
                return word
            known = subcommands[word]
    return None


def test_commands_are_found_in_documents() -> None:
    assert {words[0] for words in commands(README)} >= {
        "runs",
        "workers",
        "threads",
        "reconcile",
        "explain",
        "db",
    }
    assert "serve" in {words[0] for words in commands(ROOT / "docker-compose.yml")}
    assert ["keys", "create"] in list(commands(ROOT / "Dockerfile"))


@pytest.mark.parametrize("document", [path for path in COMMANDED if any(commands(path))], ids=name_of)
def test_commands_exist(document: Path) -> None:
    unknown = [(" ".join(words), word) for words in commands(document) if (word := what_is_unknown(words))]
    assert not unknown


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {
        target
        for document in DOCUMENTS
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE)
    }
    assert named <= targets


# -- links


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_relative_links_resolve(document: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    targets = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    assert not [target for target in targets if not resolves(document, target)]


def test_the_readme_leads_to_every_guide() -> None:
    guides = {path.name for path in (ROOT / "docs" / "guides").glob("*.md")}
    assert guides
    assert guides <= set(re.findall(r"\]\(docs/guides/([\w-]+\.md)", README.read_text()))


def resolves(document: Path, target: str) -> bool:
    place, _, heading = target.partition("#")
    file = document.parent / place if place else document
    return file.exists() and (not heading or heading in headings(file))


def headings(document: Path) -> set[str]:
    """The anchors that a code host makes."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_documents_that_name_files_name_real_ones() -> None:
    named = re.findall(r"`((?:coordinator|stores)/[\w/.]+)`", (ROOT / "ARCHITECTURE.md").read_text())
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]
