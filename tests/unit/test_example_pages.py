"""The built pages of examples/ and of tests belong to their sources."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.clients.npm import NPM, installed

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "examples" / "page.mjs"
pytestmark = pytest.mark.timeout(240)  # tests of many steps

LARGEST = {  # bytes; the half of the examples is React
    "examples/chat/page": 395 * 1024,
    "examples/langgraph/page": 350 * 1024,
    "tests/clients/pages/assistant_ui": 900 * 1024,
}
FILES = ("app.js", "app.css", "index.html", "licences.txt")


@pytest.fixture(params=LARGEST)
def place(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(place: str) -> Path:
    return ROOT / place


def hash_of_sources(folder: Path) -> str:
    """As page.mjs computes it."""
    sources = (f"src/{path.name}" for path in sorted((folder / "src").iterdir()))
    digest = hashlib.sha256(BUILD.read_bytes())
    for name in ("package.json", "package-lock.json", *sources):
        digest.update(name.encode() + b"\0" + (folder / name).read_bytes() + b"\0")
    return digest.hexdigest()


def test_built_script_has_the_hash_of_the_sources(folder: Path) -> None:
    head = (folder / "dist" / "app.js").read_text(encoding="utf-8")[:200]
    assert f"sources: {hash_of_sources(folder)};" in head, "run: make page"


def test_built_script_is_small(place: str, folder: Path) -> None:
    assert (folder / "dist" / "app.js").stat().st_size <= LARGEST[place]


def test_page_refers_to_no_other_host(folder: Path) -> None:
    for name in ("index.html", "app.css"):
        text = (folder / "dist" / name).read_text(encoding="utf-8")
        assert re.findall(r"(?:https?:)?//[\w.-]+", text.replace("http://www.w3.org/2000/svg", "")) == []


def test_guide_shows_how_the_page_finds_its_server(folder: Path) -> None:
    guide = (ROOT / "docs" / "guides" / "chat-ui.md").read_text(encoding="utf-8")
    shown = re.search(r"^```ts\nconst apiUrl = (.*)$", guide, re.MULTILINE)
    assert shown is not None
    (client,) = (folder / "src").glob("*pi.ts")  # api.ts, or chatApi.ts
    assert shown[1] in client.read_text(encoding="utf-8")


def test_licences_of_bundled_packages_are_included(folder: Path) -> None:
    text = (folder / "dist" / "licences.txt").read_text(encoding="utf-8")
    versions = json.loads((folder / "package.json").read_text(encoding="utf-8"))["dependencies"]
    assert [name for name in versions if f"{name} " not in text] == []


def test_lock_names_no_registry(folder: Path) -> None:
    text = (folder / "package-lock.json").read_text(encoding="utf-8")
    assert '"resolved"' not in text
    assert '"integrity"' in text


@pytest.mark.skipif(not NPM, reason="NOT RUN: needs node and npm: install them")
def test_build_makes_the_same_files(folder: Path, tmp_path: Path) -> None:
    installed(folder)
    subprocess.run(["node", str(BUILD), str(tmp_path)], cwd=folder, check=True, timeout=60)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (folder / "dist" / name).read_bytes(), (
            f"{name}: run make page"
        )
