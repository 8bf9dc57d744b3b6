"""Paths and links of resources. Paths are relative to the root of the API, even if it is mounted under a
prefix: clients append them to their base URL."""

from __future__ import annotations


def run_path(thread_id: str, run_id: str) -> str:
    return f"/threads/{thread_id}/runs/{run_id}"


def created_headers(path: str) -> dict[str, str]:
    return {"Content-Location": path}


def resume_headers(path: str, verb: str, *, content: str | None = None) -> dict[str, str]:
    """Returns headers that name the run at `path`, and `path`/`verb` to resume at if the response is
    aborted."""
    return {"Location": f"{path}/{verb}", "Content-Location": content or path}
