"""The endpoint that G1 and G2 are held against: FastAPI, a synchronous function, one committed row per request.

It does the least that an honest durable service does: reads JSON, hashes the body with SM3, inserts
it under a unique key together with an outbox row, commits with synchronous=FULL, and answers with a
receipt. One connection behind a lock, because many connections would only wait for SQLite's own
lock, in a worse way; orjson-like shortcuts on neither side.
"""

from __future__ import annotations

import hashlib
import socket
import sqlite3
import sys
import threading
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

_TABLES = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=FULL;
CREATE TABLE item (number INTEGER PRIMARY KEY, client_key TEXT NOT NULL UNIQUE, leaf BLOB NOT NULL, data TEXT NOT NULL);
CREATE TABLE outbox (number INTEGER PRIMARY KEY, leaf BLOB NOT NULL);
"""


class Item(BaseModel):
    template: str
    client_key: str
    stages: dict[str, dict[str, Any]]


def make_app(path: str) -> FastAPI:
    """The application over a fresh database at `path`."""
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    connection.executescript(_TABLES)
    lock = threading.Lock()
    app = FastAPI()

    @app.post("/v1/evidence", status_code=201)
    def preserve(item: Item) -> dict[str, Any]:
        data = item.model_dump_json()
        leaf = hashlib.new("sm3", b"\0" + data.encode()).digest()
        with lock:
            connection.execute("BEGIN IMMEDIATE")
            try:
                row = connection.execute(
                    "INSERT INTO item (client_key, leaf, data) VALUES (?, ?, ?)", (item.client_key, leaf, data)
                ).lastrowid
                connection.execute("INSERT INTO outbox VALUES (?, ?)", (row, leaf))
            except sqlite3.IntegrityError as error:
                connection.execute("ROLLBACK")
                raise HTTPException(409) from error
            connection.execute("COMMIT")
        return {"leaf_index": row, "leaf": leaf.hex(), "promise": None}

    return app


def main() -> None:
    """Serve on a free port of 127.0.0.1 and print the address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(make_app(sys.argv[1]), log_level="warning", access_log=False, lifespan="off")
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
