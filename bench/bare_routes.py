"""The floor of a request: bare FastAPI routes that commit one row, or read rows of a coordinator's store. A
search also counts the threads, as each response of the coordinator with a full page does.

`python -m bench.bare_routes PORT FOLDER`: FOLDER has the store `runs.db`; rows are committed to `floor.db`.
The statements are executed in the event loop, which is the cheapest way, and nothing is logged.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvicorn
from fastapi import FastAPI
from starlette.responses import JSONResponse


def create_app(folder: Path) -> FastAPI:
    app = FastAPI()
    written = sqlite3.connect(folder / "floor.db", isolation_level=None)
    written.executescript(
        "PRAGMA journal_mode = wal; PRAGMA synchronous = full;"
        "CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID"
    )
    store = sqlite3.connect(f"file:{folder / 'runs.db'}?mode=ro", uri=True, isolation_level=None)
    store.row_factory = sqlite3.Row

    def answer(statement: str, *parameters: Any, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse([dict(row) for row in store.execute(statement, parameters)], headers=headers)

    async def commit(body: dict[str, Any]) -> JSONResponse:
        row_id = str(uuid4())
        written.execute("INSERT INTO rows VALUES (?, ?)", (row_id, json.dumps(body)))
        return JSONResponse({"id": row_id})

    async def runs(thread_id: str) -> JSONResponse:
        return answer(
            "SELECT * FROM runs WHERE thread_id = ? ORDER BY created_us DESC, run_id LIMIT 10", thread_id
        )

    async def run(run_id: str) -> JSONResponse:
        return answer("SELECT * FROM runs WHERE run_id = ?", run_id)

    async def search(body: dict[str, Any]) -> JSONResponse:
        (total,) = store.execute("SELECT count(*) FROM threads WHERE temporary = 0").fetchone()
        return answer(
            "SELECT * FROM threads WHERE temporary = 0 ORDER BY updated_at DESC, thread_id DESC LIMIT ?",
            body["limit"],
            headers={"X-Pagination-Total": str(total)},
        )

    app.add_api_route("/commit", commit, methods=["POST"])
    app.add_api_route("/threads/search", search, methods=["POST"])
    app.add_api_route("/threads/{thread_id}/runs", runs)
    app.add_api_route("/runs/{run_id}", run)
    return app


if __name__ == "__main__":
    uvicorn.run(
        create_app(Path(sys.argv[2])),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_level="error",
        access_log=False,
    )
