"""`make release`: what is in it, and that the same commit gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a release is built from a commit"),
]


def release(
    folder: Path, *options: str, root: Path = ROOT, umask: int = 0o022, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "tools" / "release.py"), *options, str(folder)],
        env={**os.environ, **environment},
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    done = release(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_checksums_are_of_all_files(made: Path) -> None:
    lines = (made / "SHA256SUMS").read_text().splitlines()
    listed = {line[66:]: line[:64] for line in lines}
    files = {file.name: file for file in made.iterdir() if file.name != "SHA256SUMS"}
    assert {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()} == listed
    assert {Path(name).suffix for name in listed} == {".whl", ".gz", ".json"}


def test_the_sbom_names_each_package_of_the_image_with_its_hashes(made: Path) -> None:
    sbom = json.loads((made / "sbom.cdx.json").read_text())
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    assert sbom["metadata"]["component"]["name"] == "run-coordinator"
    lock = (ROOT / "requirements" / "image.txt").read_text()
    pinned = set(re.findall(r"^([a-z0-9._-]+)(?:\[[\w,-]+\])?==([^ ;\\]+)", lock, re.MULTILINE))
    assert {(one["name"], one["version"]) for one in sbom["components"]} == pinned
    hashes = {
        one["content"]
        for package in sbom["components"]
        for reference in package.get("externalReferences", ())
        for one in reference.get("hashes", ())
    } | {one["content"] for package in sbom["components"] for one in package.get("hashes", ())}
    assert hashes == set(re.findall(r"sha256:([0-9a-f]{64})", lock))
    assert "serialNumber" not in sbom, "it would be another one each time"


def test_the_same_commit_gives_the_same_bytes_elsewhere(made: Path, tmp_path: Path) -> None:
    """In another folder, with a file that is not committed, and compared with sums of which one is wrong."""
    clone = tmp_path / "clone"
    subprocess.run(
        ["git", "clone", "--quiet", "--no-local", "--depth", "1", str(ROOT), str(clone)], check=True
    )
    (clone / "coordinator" / "stray.py").write_text("")
    checksums = (made / "SHA256SUMS").read_text()
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}{checksums[64:]}")
    again = release(
        tmp_path,
        "--compare",
        root=clone,
        umask=0o077,
        TZ="Asia/Kathmandu",
        LC_ALL="C.UTF-8",
        PYTHONHASHSEED="7",
    )
    assert again.returncode == 1, again.stdout + again.stderr
    assert checksums in again.stderr


def test_the_sources_are_complete(made: Path) -> None:
    (sdist,) = made.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"SECURITY.md", "LICENSE", "pyproject.toml", "requirements/image.txt", "tools/release.py"} <= names
