"""Empty databases, quickly: one PostgreSQL database a server, emptied before each test; a new file on SQLite."""

from pathlib import Path

import pytest

from postgres import Database, Server

KINDS = ("sqlite", "postgresql")
_made: dict[Server, Database] = {}


def empty_database(request: pytest.FixtureRequest, path: Path) -> str:
    """The URL of an empty database of the kind that `request.param` names. To make one costs ten times as much as to empty it."""
    if request.param == "sqlite":
        return f"sqlite:///{path}"
    server: Server = request.getfixturevalue("postgres_server")
    server.start()
    if server not in _made:
        _made[server] = server.create_database()
    with _made[server].connect() as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.commit()
    return _made[server].url
