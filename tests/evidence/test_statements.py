"""Laws of the statements written out, on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import KINDS, empty_database
from sqlalchemy import Column, Integer, LargeBinary, MetaData, Table, select
from sqlalchemy.exc import IntegrityError

from evidence.statements import insert_many
from evidence.store import Store

Rows = list[tuple[int, bytes]]

metadata = MetaData()
table = Table("thing", metadata, Column("id", Integer, primary_key=True, autoincrement=False), Column("value", LargeBinary))


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = Store(empty_database(request, tmp_path / "things.db"))
    with store.writing() as connection:
        metadata.create_all(connection)
    yield store
    store.close()


def rows(count: int) -> Rows:
    return [(number, number.to_bytes(4) * 300) for number in range(count)]


def stored(store: Store) -> Rows:
    with store.reading() as connection:
        return [(row.id, bytes(row.value)) for row in connection.execute(select(table).order_by(table.c.id))]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 32, 41, 100])
def test_rows_stand_as_they_were_given_whatever_their_number(store: Store, count: int) -> None:
    with store.writing() as connection:
        insert_many(connection, table, rows(count))
    assert stored(store) == rows(count)


@pytest.mark.parametrize("refused", [0, 5, 31, 39, 40])
def test_nothing_stands_of_a_transaction_in_which_one_row_was_refused(store: Store, refused: int) -> None:
    """Rows before the refused one may stand within the transaction; they go with it, and the next one is whole."""
    with store.writing() as connection:
        insert_many(connection, table, rows(41)[refused : refused + 1])
    with pytest.raises(IntegrityError), store.writing() as connection:
        insert_many(connection, table, [*rows(41)[40:], *rows(41)[:40]])
    assert stored(store) == rows(41)[refused : refused + 1]
    with store.writing() as connection:
        insert_many(connection, table, [row for row in rows(41) if row[0] != refused])
    assert stored(store) == rows(41)
