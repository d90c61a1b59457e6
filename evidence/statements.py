"""Statements written out, for what runs at every commit: there the expression language takes longer than the database.

The driver of SQLite is called directly, and its errors raised as the library above it raises them; one
text runs on both databases.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any, Protocol

from sqlalchemy import Connection, Table
from sqlalchemy.exc import DBAPIError

_ROWS_PER_STATEMENT = (32, 8, 1)


class Found(Protocol):
    """What a statement gave: rows as sequences, and how many it changed."""

    @property
    def rowcount(self) -> int:
        """How many rows were changed."""

    def __iter__(self) -> Iterator[Any]:
        """The rows."""


@cache
def _placed(text: str) -> str:
    return text.replace("?", "%s")


def run(connection: Connection, text: str, values: Any = ()) -> Found:
    """The result of a statement written out, `?` standing for each value; within a transaction that was begun.

    On PostgreSQL a list of tuples runs the statement once for each.
    Raises: DBAPIError as the library raises it.
    """
    if connection.dialect.name != "sqlite":
        return connection.exec_driver_sql(_placed(text), values)
    driver: Any = connection.connection.driver_connection
    try:
        found: Found = driver.execute(text, values)
    except sqlite3.Error as error:
        raise DBAPIError.instance(text, None, error, sqlite3.Error, dialect=connection.dialect) from error
    return found


@cache
def _insert_text(table: Table, count: int, verb: str = "INSERT") -> str:
    names = [column.name for column in table.columns if column.autoincrement is not True]
    quoted = ", ".join(f'"{name}"' for name in names)
    row = f"({', '.join('?' * len(names))})"
    return f'{verb} INTO "{table.name}" ({quoted}) VALUES {", ".join([row] * count)}'


def insert_many(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Put in rows whose values stand in the order of the table's columns, a number that counts itself left out.

    Where a row is refused, rows before it may stand: the caller gives its transaction up.
    Raises: DBAPIError as the library raises it, IntegrityError for a row that is refused.
    """
    if connection.dialect.name != "sqlite":
        if rows:
            run(connection, _insert_text(table, 1), rows)
        return
    # Many rows a statement: SQLite gives the interpreter's lock away at each step, and the thread would wait for it each time.
    # OR FAIL, because to be able to take such a statement back alone, SQLite copies every page it touches to another file first.
    start = 0
    for width in _ROWS_PER_STATEMENT:
        while len(rows) - start >= width:
            values = chain.from_iterable(rows[start : start + width])
            # For bytes the driver looks for an adapter, which takes longer than all else it does with them; not so for bytearray.
            bound = [bytearray(value) if type(value) is bytes else value for value in values]
            run(connection, _insert_text(table, width, "INSERT OR FAIL"), bound)
            start += width
