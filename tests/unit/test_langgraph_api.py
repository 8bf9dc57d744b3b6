"""The page about LangGraph's API is what the installed client and the router define."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tools import langgraph_api


@pytest.fixture(scope="module")
def written() -> str:
    return langgraph_api.written()


def test_page_is_up_to_date(written: str) -> None:
    assert langgraph_api.PAGE.read_text() == written, "make format writes it"


@pytest.mark.parametrize(
    "line",
    [
        "| `runs.wait` | `POST /runs/wait` | served |",
        "| `runs.join_stream` | `GET /threads/{thread_id}/runs/{run_id}/stream` | served |",
        "| `threads.stream` | `POST /threads/{thread_id}/commands` | served |",
    ],
)
def test_page_has_what_is_served(written: str, line: str) -> None:
    assert line in written.splitlines()


def test_requests_of_the_javascript_client_are_recorded() -> None:
    """By calling its methods, where node and the client are installed. Elsewhere the record must be of the
    version that the example's page is built with."""
    version, rows = langgraph_api.of_javascript()
    lock = json.loads((langgraph_api.PACKAGE / "package-lock.json").read_text())
    package = "node_modules/@langchain/langgraph-sdk"
    assert lock["packages"][package]["version"] == version, "tools/langgraph_js.mjs records it again"
    assert len(rows) > 40
    node = shutil.which("node")
    if node is None or not (langgraph_api.PACKAGE / package).exists():
        return
    command = [node, str(langgraph_api.SCRIPT), str(langgraph_api.PACKAGE)]
    recorded = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert recorded == langgraph_api.RECORDED.read_text()


def test_each_request_that_is_not_served_has_a_reason() -> None:
    served = {route.key for route in langgraph_api.routes()}
    _, rows = langgraph_api.of_javascript()
    unserved = {row.method for row in rows if not served.issuperset(one.key for one in row.requests)}
    assert unserved == set(langgraph_api.REASONS)
