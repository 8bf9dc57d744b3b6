"""The OpenAPI document is correct: responses of a real server to generated requests match it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import checks
from schemathesis.specs.openapi import checks as described_by

from coordinator.gateway import key_file
from coordinator.gateway.caller import Role
from tests.gateway.matrix import ENDLESS, ENDLESS_EVENTS, ROWS
from tests.support.served import environment

EXAMPLES = 8
"""Examples of each operation, the same in every run: some 350 requests in total."""

# Parts of the library have no types.
_library, _checks, _described_by = cast("Any", schemathesis), cast("Any", checks), cast("Any", described_by)
CHECKS = [
    _checks.not_a_server_error,
    _described_by.status_code_conformance,
    _described_by.content_type_conformance,
    _described_by.response_schema_conformance,
]

PROGRAM = "import sys; from coordinator.cli import main; sys.exit(main())"


class Server:
    def __init__(self, url: str, key: str, log: Path) -> None:
        self.url, self.key, self.log = url, key, log
        self.document: dict[str, Any] = httpx.get(f"{url}/openapi.json").json()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    folder = tmp_path_factory.mktemp("openapi")
    _, key = key_file.create(folder / "keys.json", role=Role.user, user_id="alice")
    log = folder / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", PROGRAM, "serve", "--port", "0", "--grace", "0"),
                *("--store", "memory://", "--api-keys", str(folder / "keys.json")),
            ],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,
            env=environment(),
        )
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            match = next((one for line in lines if (one := re.search(r"on (http://\S+:\d+)$", line))), None)
            assert match is not None, log.read_text()
            yield Server(match[1], key, log)
        finally:
            process.terminate()
            process.communicate(timeout=30)


@pytest.fixture(scope="module")
def described(server: Server) -> Any:
    schema = _library.openapi.from_dict(server.document)
    schema.config.update(base_url=server.url)
    return schema


# Three routes are left out: after a drain no request is served, and the streams of a thread do not end.
# FastAPI's own pages are not described.
DESCRIBED = [
    route
    for route in ROWS
    if route[1]
    not in ("/coordinator/drain", ENDLESS[1], ENDLESS_EVENTS[1], "/docs", "/redoc", "/openapi.json")
    and not route[1].startswith("/docs/")
]


@pytest.mark.parametrize("route", DESCRIBED, ids=" ".join)
def test_responses_match_the_openapi_document(route: tuple[str, str], described: Any, server: Server) -> None:
    method, path = route

    @given(case=described[path][method].as_strategy())
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    def answered(case: Any) -> None:
        _without_delay(case.body)
        answer = case.call(headers={"x-api-key": server.key}, timeout=20)
        # The server has no graphs: it answers 501 where it would read their store.
        case.validate_response(answer, checks=CHECKS[1:] if answer.status_code == 501 else CHECKS)

    answered()
    assert "Traceback" not in server.log.read_text()


def test_every_documented_operation_was_requested(server: Server) -> None:
    described = {(method.upper(), path) for path, item in server.document["paths"].items() for method in item}
    assert described - set(DESCRIBED) == {("POST", "/coordinator/drain"), ENDLESS, ENDLESS_EVENTS}


def _without_delay(body: Any) -> None:
    """Removes delays from a body, so that the test does not wait for a delayed run."""
    bodies: list[Any] = cast("list[Any]", body) if isinstance(body, list) else [body]
    for one in bodies:
        if isinstance(one, dict):
            run_body = cast("dict[str, Any]", one)
            run_body.pop("after_seconds", None)
            if isinstance(given := run_body.get("input"), dict):
                cast("dict[str, Any]", given).pop("sleep", None)


def test_every_route_that_needs_a_key_documents_it(server: Server) -> None:
    for path, item in server.document["paths"].items():
        for method, operation in item.items():
            public = httpx.request(method, server.url + path).status_code != 401
            assert public is not bool(operation.get("security")), f"{method} {path}"
