"""docker-compose.yml: pinned images, health checks, named volumes. Read by the part of YAML that it uses."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from coordinator.gateway.server.serving import KEEP_ALIVE

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
    assert set(services) == {"redis", "postgres", "keys", "gateway", "proxy"}
    assert services["gateway"]["deploy"]["replicas"] == 3


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


def test_what_is_waited_for_exists_and_comes_about(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        for name, terms in service.get("depends_on", {}).items():
            once = "restart" not in services[name]
            assert terms == {"condition": "service_completed_successfully" if once else "service_healthy"}


def test_configs_exist(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    used = {config["source"] for service in services.values() for config in service.get("configs", ())}
    assert used == set(compose["configs"])


def commands_of(service: dict[str, Any]) -> list[list[str]]:
    """What a service of ours runs, as words of our command line: its command, and those in a shell's."""
    command = service["command"]
    if "entrypoint" not in service:
        return [shlex.split(command)]
    assert service["entrypoint"] == ["sh", "-c"]
    (script,) = command
    return [shlex.split(found) for found in re.findall(r"\bcoordinator ([^|&;]+)", script)]


def ours(services: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in services.items() if "build" in service}


def test_each_command_is_one_that_exists_and_takes_its_values(services: dict[str, dict[str, Any]]) -> None:
    """Parsed by the command line itself: a value that it refuses is an error here."""
    from typer.main import get_command

    from coordinator.cli.app import app

    found = [words for service in ours(services).values() for words in commands_of(service)]
    assert [words[0] for words in found] == ["keys", "serve"]
    for words in found:
        root: Any = get_command(app)
        command, rest = root, list(words)
        while subcommands := getattr(command, "commands", None):
            command = subcommands[rest.pop(0)]
        with command.make_context("coordinator", rest) as context:
            assert context.params, words


def test_the_image_serves_by_default() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r'^ENTRYPOINT \["coordinator"\]\nCMD \["serve"\]$', dockerfile, re.MULTILINE)


def test_our_services_use_settings_that_exist(services: dict[str, dict[str, Any]]) -> None:
    from coordinator.gateway import GatewaySettings
    from coordinator.settings import Settings

    names = {
        f"COORDINATOR_{name.upper()}" for kind in (Settings, GatewaySettings) for name in kind.model_fields
    }
    dockerfile = (ROOT / "Dockerfile").read_text()
    used = set(re.findall(r"\b(COORDINATOR_[A-Z_]+)=", dockerfile))
    for service in ours(services).values():
        used |= set(service.get("environment", {}))
    assert "COORDINATOR_STORE" in used
    assert used <= names


def test_the_gateway_gets_the_time_that_its_shutdown_may_take(services: dict[str, dict[str, Any]]) -> None:
    gateway = services["gateway"]
    grace = float(re.findall(r"--grace (\S+)", gateway["command"])[0])
    assert int(gateway["stop_grace_period"].removesuffix("s")) >= grace + 5


def test_the_gateway_asks_for_keys_that_are_made_before(services: dict[str, dict[str, Any]]) -> None:
    (made,) = commands_of(services["keys"])
    assert made[made.index("--file") + 1] == services["gateway"]["environment"]["COORDINATOR_API_KEYS"]
    assert services["gateway"]["volumes"] == services["keys"]["volumes"]


def test_health_checks_ask_routes_that_exist(services: dict[str, dict[str, Any]]) -> None:
    from coordinator.gateway.routes import probes

    paths = {getattr(route, "path", "") for route in probes.router.routes}
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / "Dockerfile").read_text()
    asked = re.findall(r"http://127\.0\.0\.1:(?:\d+|%s)(/[\w/]*)", text)
    assert len(asked) == 3
    assert set(asked) <= paths


def test_the_proxy_lets_streams_through(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    """Every event at once, for as long as a run takes, and no request twice."""
    config = compose["configs"]["proxy"]["content"]
    said = dict(re.findall(r"^\s*(proxy_\w+|client_\w+) (?!Host|X-)(.+);$", config, re.MULTILINE))
    assert said["proxy_buffering"] == "off"
    assert said["proxy_http_version"] == "1.1"
    assert said["proxy_read_timeout"] == "1h"
    assert "non_idempotent" not in said["proxy_next_upstream"]
    assert "server gateway:2024 resolve;" in config
    assert "--port 2024" in services["gateway"]["command"]
    assert "$" not in config.replace("$$", ""), "a single dollar is a variable of Compose"
    keepalive = re.findall(r"keepalive_timeout (\d+)s", config)
    assert int(keepalive[0]) < KEEP_ALIVE, "the proxy is the one to close"


def test_the_image_runs_as_nobody_special() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    final = dockerfile.rpartition("FROM ")[2]
    assert re.search(r"^USER (?!root|0)", final, re.MULTILINE)
    assert "HEALTHCHECK" in final
