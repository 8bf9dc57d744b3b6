"""The page about LangGraph's API is what the installed client and the router define."""

from __future__ import annotations

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
        "| `store.put_item` | `PUT /store/items` | **not served** |",
    ],
)
def test_page_has_what_is_served_and_what_is_not(written: str, line: str) -> None:
    assert line in written.splitlines()
