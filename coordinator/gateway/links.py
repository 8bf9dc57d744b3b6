"""Where things are. Paths begin at the root of the API, also where that is mounted under a prefix: clients
put what they are told behind the address that they were given."""

from __future__ import annotations


def run_path(thread_id: str, run_id: str) -> str:
    return f"/threads/{thread_id}/runs/{run_id}"


def created(path: str) -> dict[str, str]:
    return {"Content-Location": path}


def goes_on_at(path: str, verb: str, *, content: str | None = None) -> dict[str, str]:
    """`path` of the run; `verb` is what to ask there when this answer breaks off."""
    return {"Location": f"{path}/{verb}", "Content-Location": content or path}
