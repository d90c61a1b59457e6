"""Rows that stand beside items: each table must hold exactly the rows that its items give, none altered, none more.

Keys of these tables are digests, in no order of the log, and holding all of them would take memory
without bound. So both sides are summed: per 4,096 leaves one number over the rows that are stored,
one over the rows that the items give. Where the numbers differ, those leaves are looked at row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, LargeBinary, Table, or_, select, type_coerce
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import NullType

from evidence import tables
from evidence.examination.damage import Findings, How, Unit

BUCKET = 4096
_PAGE = 5000
_MASK = (1 << 64) - 1

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Kept:
    """One such table: the unit it is named by, its columns in order, how many of them are its key, where the leaf stands."""

    unit: Unit
    table: Table
    key: int
    leaf: int

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return tuple(column.name for column in self.table.columns)

    def where(self, row: Row) -> str:
        """How a row of the table is named: no more than 8 hex digits of its key."""
        parts = [part[:4].hex() + "…" if isinstance(part, bytes) else str(part) for part in row[: self.key]]
        return " ".join([self.table.name, *parts])


KEPT = {
    Unit.IDEMPOTENCY: Kept(Unit.IDEMPOTENCY, tables.idempotency, 1, 1),
    Unit.CONFLICT: Kept(Unit.CONFLICT, tables.conflict, 2, 2),
    Unit.LINK: Kept(Unit.LINK, tables.link_part, 2, 2),
    Unit.BLIND: Kept(Unit.BLIND, tables.blind, 2, 1),
}


def raw(table: Table) -> list[ColumnElement[Any]]:
    """The table's columns, those of bytes as the driver gives them: SQLite lets anybody put text where bytes belong."""
    return [type_coerce(c, NullType()).label(c.name) if isinstance(c.type, LargeBinary) else c for c in table.columns]


def plain(row: Iterable[Any]) -> Row:
    """A row as values that compare and hash alike on every database."""
    return tuple(bytes(part) if isinstance(part, memoryview | bytearray) else part for part in row)


def as_bytes(value: object) -> bytes:
    """The value of a column of bytes, whatever lies there."""
    return value if isinstance(value, bytes) else str(value).encode()


@dataclass(slots=True)
class Tally:
    """Per table and 4,096 leaves, a sum over rows that tells two sets of rows apart."""

    sums: dict[tuple[Unit, int], int] = field(default_factory=dict)

    def add(self, unit: Unit, leaf: int, row: Row) -> None:
        """One row more. Python's hash of bytes is keyed anew in each process, so that nobody can prepare two sets of one sum."""
        place = unit, leaf // BUCKET
        self.sums[place] = (self.sums.get(place, 0) + hash(row)) & _MASK

    def differing(self, other: Tally) -> list[tuple[Unit, int]]:
        """Where the two differ."""
        places = self.sums.keys() | other.sums.keys()
        return sorted(place for place in places if self.sums.get(place, 0) != other.sums.get(place, 0))


def stored(connection: Connection, size: int, findings: Findings) -> tuple[Tally, set[Unit]]:
    """The tally of what is stored for the leaves below `size`, and the tables that cannot be read.

    Rows of other leaves are named at once.
    """
    tally, unread = Tally(), set()
    for unit, kept in KEPT.items():
        try:
            _add_stored(connection, kept, size, tally, findings)
        except DBAPIError as error:
            unread.add(unit)
            detail = f"the table cannot be read to its end: {type(error.orig).__name__}"
            findings.add(Unit.DATABASE, kept.table.name, How.UNREADABLE, detail)
    return tally, unread


def _add_stored(connection: Connection, kept: Kept, size: int, tally: Tally, findings: Findings) -> None:
    count, at = 0, kept.leaf
    result = connection.execution_options(yield_per=_PAGE).execute(select(*raw(kept.table)))
    for page in result.partitions():
        for found in page:
            row = plain(found)
            if isinstance(row[at], int) and 0 <= row[at] < size:
                tally.add(kept.unit, row[at], row)
            else:
                detail = "row names a leaf that the log does not have"
                findings.add(kept.unit, kept.where(row), How.ADDED, detail, found=row[at])
        count += len(page)
    findings.count(f"{kept.unit.value} rows", count)


def name_differences(
    connection: Connection, unit: Unit, bucket: tuple[int, int], given: Sequence[Row], unread: Container[int], findings: Findings
) -> None:
    """Each row of a table that differs from what the items of the leaves [start, stop) give is named.

    What the items of `unread` would give is not known: their rows are let be.
    """
    kept = KEPT[unit]
    column = kept.table.columns[kept.names[kept.leaf]]
    query = select(*raw(kept.table)).where(column >= bucket[0], column < bucket[1])
    held = {plain(row) for row in connection.execute(query)}
    expected = {row[: kept.key]: row for row in given}
    found = {row[: kept.key]: row for row in held}
    for key, row in expected.items():
        if found.get(key) == row:
            continue
        other = found.get(key) or _row_of(connection, kept, key)
        if other is None:
            _name(findings, kept, row, How.MISSING, "row is absent that the item gives", expected=row[kept.leaf])
        else:
            _name_altered(findings, kept, row, other)
    for key, row in found.items():
        if key not in expected and row[kept.leaf] not in unread:
            _name(findings, kept, row, How.ADDED, "no item of the log gives this row", found=row[kept.leaf])


def _row_of(connection: Connection, kept: Kept, key: Row) -> Row | None:
    """The row of a key wherever it points to: a row that was redirected lies with other leaves."""
    columns = list(kept.table.columns)[: kept.key]
    query = select(*raw(kept.table)).where(*(column == value for column, value in zip(columns, key, strict=True)))
    row = connection.execute(query).one_or_none()
    return None if row is None else plain(row)


def _name_altered(findings: Findings, kept: Kept, expected: Row, found: Row) -> None:
    for name, wanted, got in zip(kept.names, expected, found, strict=True):
        if wanted != got:
            detail = f"column {name} is not what the item gives"
            _name(findings, kept, expected, How.ALTERED, detail, expected=wanted, found=got)
            return


def _name(findings: Findings, kept: Kept, row: Row, how: How, detail: str, **values: Any) -> None:
    findings.add(kept.unit, kept.where(row), how, detail, leaf=row[kept.leaf], **values)


def outside(connection: Connection, table: Table, size: int, *, limit: int = 100) -> list[int]:
    """Leaf indexes of rows that lie outside the log, in a table whose key is the leaf."""
    column = table.columns["leaf_index"]
    query = select(column).where(or_(column < 0, column >= size)).order_by(column).limit(limit)
    return list(connection.execute(query).scalars())


def any_tag(connection: Connection, tags: Sequence[bytes]) -> bool:
    """Whether any of these tags stands in the blind index."""
    return connection.execute(select(tables.blind.c.leaf_index).where(tables.blind.c.tag.in_(tags)).limit(1)).first() is not None


Give = Callable[[Unit, int, Row], None]
"""Takes a row that an item gives: table, leaf, row."""
