"""docker-compose.yml: pinned images, health checks, named volumes. Read by the part of YAML that it uses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
Line = tuple[int, str]


def lines_of(text: str) -> list[Line]:
    """(indent, content) of each line that says something. Block scalars keep their lines as they are."""
    bare = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(len(line) - len(line.lstrip()), line.strip()) for line in bare]


def read(lines: list[Line]) -> Any:
    """Mappings, lists and scalars by indentation. Anything else that YAML knows is refused."""
    if not lines:
        return None
    indent = lines[0][0]
    assert all(at >= indent for at, _ in lines), f"badly indented below {lines[0][1]!r}"
    starts = [number for number, (at, _) in enumerate(lines) if at == indent]
    parts = [lines[begin:end] for begin, end in zip(starts, [*starts[1:], len(lines)], strict=True)]
    if lines[0][1].startswith("- "):
        return [item(part) for part in parts]
    pairs = [pair(part) for part in parts]
    assert len(dict(pairs)) == len(pairs), f"a key twice beside {lines[0][1]!r}"
    return dict(pairs)


def item(part: list[Line]) -> Any:
    (at, first), rest = part[0], part[1:]
    assert first.startswith("- "), first
    content = first[2:]
    if rest or re.match(r"[\w-]+: ", content):
        return read([(at + 2, content), *rest])
    return scalar(content)


def pair(part: list[Line]) -> tuple[str, Any]:
    found = re.fullmatch(r"([\w.-]+):(?: (.+))?", part[0][1])
    assert found is not None, f"not `key: value`: {part[0][1]!r}"
    key, value = found.groups()
    if value == "|":
        return key, "\n".join(content for _, content in part[1:])
    if value is None:
        return key, read(part[1:])
    assert len(part) == 1, f"{key} has a value and something below it"
    return key, scalar(value)


def scalar(text: str) -> Any:
    if text[0] in '["':
        return json.loads(text)
    assert text[0] not in "'{&*!%@`>", f"not in the part of YAML that is read here: {text!r}"
    assert not re.search(r": | #", text), f"quote it: {text!r}"
    return int(text) if text.isdigit() else {"true": True, "false": False}.get(text, text)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return read(lines_of((ROOT / "docker-compose.yml").read_text()))


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return compose["services"]


def test_everything_of_the_deployment_is_there(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {"redis", "postgres", "worker", "proxy"}
    assert services["worker"]["deploy"]["replicas"] == 3


def test_images_are_pinned(services: dict[str, dict[str, Any]]) -> None:
    images = [service["image"] for service in services.values() if "image" in service]
    images += re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert len(images) == 5
    assert not [image for image in images if not re.fullmatch(r"[\w./-]+:\d+\.\d+\.?\d*[\w.-]*", image)]


def test_every_service_has_a_health_check(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        kind, *command = service["healthcheck"]["test"]
        assert kind in {"CMD", "CMD-SHELL"}, name
        assert command, name


def test_volumes_are_named(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    used = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())}
    assert used == set(compose["volumes"])


def test_what_is_waited_for_exists_and_can_become_healthy(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        for name, terms in service.get("depends_on", {}).items():
            assert terms == {"condition": "service_healthy"}
            assert "profiles" not in services[name]


def test_configs_exist(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    used = {config["source"] for service in services.values() for config in service.get("configs", ())}
    assert used == set(compose["configs"])


def test_the_worker_uses_settings_that_exist(services: dict[str, dict[str, Any]]) -> None:
    from coordinator.settings import Settings

    names = {f"COORDINATOR_{name.upper()}" for name in Settings.model_fields}
    assert set(services["worker"]["environment"]) <= names


def test_the_worker_gets_the_time_that_its_shutdown_may_take(services: dict[str, dict[str, Any]]) -> None:
    from coordinator.settings import Settings
    from coordinator.workers.drain import UNWIND

    patience = int(services["worker"]["stop_grace_period"].removesuffix("s"))
    assert patience >= Settings.model_fields["grace"].default + 2 * UNWIND


def test_the_image_runs_as_nobody_special() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    final = dockerfile.rpartition("FROM ")[2]
    assert re.search(r"^USER (?!root|0)", final, re.MULTILINE)
    assert "HEALTHCHECK" in final
