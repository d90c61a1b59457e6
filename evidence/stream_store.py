"""The tables of streams, and the only SQL over them. Takes and gives plain values.

A stream's newest slice is its committed offset: the row of a slice is written in the very
transaction that puts its item into the log, so that neither ever stands without the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
    func,
    insert,
    select,
    update,
)

from evidence import tables
from evidence.tables import COUNTER, METADATA
from models.digest import Pair
from models.errors import VerificationError

OBJECT_ID_BYTES = 16

# One row a stream: (submitter, stream_id) within this log.
stream = Table(
    "stream",
    METADATA,
    Column("id", COUNTER, primary_key=True, autoincrement=True),
    Column("stream_id", String(64), nullable=False),
    Column("submitter", String(128), nullable=False),
    Column("subject", String(128), nullable=False),
    Column("created_ms", COUNTER, nullable=False),
    # Whether its records are pushed over HTTP, so that the service itself is its collector.
    Column("is_pushed", Boolean, nullable=False),
    UniqueConstraint("submitter", "stream_id", name="stream_by_name"),
    Index("stream_by_stream_id", "stream_id"),
)

# One row a declaration D; `keywords` are sealed under the secret of its item.
declaration = Table(
    "stream_declaration",
    METADATA,
    Column("stream", COUNTER, ForeignKey("stream.id"), primary_key=True, autoincrement=False),
    Column("number", COUNTER, primary_key=True, autoincrement=False),
    Column("leaf_index", COUNTER, nullable=False),
    Column("sm3", LargeBinary(32), nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("keywords", LargeBinary, nullable=False),
)

# One row a slice: H, where its records lie, and its counts, sealed under the secret of its item.
slice_ = Table(
    "stream_slice",
    METADATA,
    Column("stream", COUNTER, ForeignKey("stream.id"), primary_key=True, autoincrement=False),
    Column("number", COUNTER, primary_key=True, autoincrement=False),
    Column("leaf_index", COUNTER, nullable=False),
    Column("declaration", COUNTER, nullable=False),
    Column("epoch", COUNTER, nullable=False),
    Column("created_ms", COUNTER, nullable=False),
    Column("lines", COUNTER, nullable=False),
    Column("header", LargeBinary, nullable=False),
    Column("object_id", LargeBinary(OBJECT_ID_BYTES), nullable=True),
    Column("counts", LargeBinary, nullable=True),
    # All hashes of the index (`models.levels`): salted, so they tell nothing, and a question's proof is read from them.
    Column("hashes", LargeBinary, nullable=True),
    Index("stream_slice_by_time", "stream", "created_ms"),
    Index("stream_slice_by_epoch", "stream", "epoch", "number"),
    Index("stream_slice_by_object", "object_id"),
)

# Recount notes: slices first…last were recomputed from the archived records and gave what their headers state.
recount = Table(
    "stream_recount",
    METADATA,
    Column("id", COUNTER, primary_key=True, autoincrement=True),
    Column("stream", COUNTER, ForeignKey("stream.id"), nullable=False),
    Column("first", COUNTER, nullable=False),
    Column("last", COUNTER, nullable=False),
    Column("note", LargeBinary, nullable=False),
    UniqueConstraint("stream", "first", "last", name="stream_recount_once"),
)

TABLES = (stream, declaration, slice_, recount)


@dataclass(frozen=True, slots=True)
class StreamRow:
    """One stream as it is stored."""

    id: int
    stream_id: str
    submitter: str
    subject: str
    created_ms: int
    is_pushed: bool


@dataclass(frozen=True, slots=True)
class DeclarationRow:
    """One declaration: where its item stands, its bytes, and its keywords, sealed."""

    number: int
    leaf_index: int
    evidence_id: bytes
    data: bytes
    keywords: bytes


class SliceRow(NamedTuple):
    """One slice: where its item stands, its header, and what is kept of it; `object_id` names its file."""

    number: int
    leaf_index: int
    evidence_id: bytes
    declaration: int
    created_ms: int
    lines: int
    header: bytes
    object_id: bytes | None
    counts: bytes | None
    hashes: bytes | None


def milliseconds(moment: datetime) -> int:
    """The stored form of a time."""
    return round(moment.timestamp() * 1000)


def leaf_of(connection: Connection, item: bytes) -> int:
    """The leaf index that the item has just been given, within the transaction that gives it."""
    return int(connection.execute(select(tables.evidence.c.leaf_index).where(tables.evidence.c.evidence_id == item)).scalar_one())


def find(connection: Connection, *, stream_id: str | None = None, submitter: str | None = None) -> list[StreamRow]:
    """The streams of that name and submitter, or all, in the order of their declaration."""
    query = select(stream).order_by(stream.c.id)
    if stream_id is not None:
        query = query.where(stream.c.stream_id == stream_id)
    if submitter is not None:
        query = query.where(stream.c.submitter == submitter)
    return [StreamRow(*row) for row in connection.execute(query)]


def add_stream(connection: Connection, *, stream_id: str, submitter: str, subject: str, created_ms: int, is_pushed: bool) -> int:
    """A new stream; its row number."""
    values = {
        "stream_id": stream_id,
        "submitter": submitter,
        "subject": subject,
        "created_ms": created_ms,
        "is_pushed": is_pushed,
    }
    done = connection.execute(insert(stream).values(**values))
    (row,) = done.inserted_primary_key or (None,)
    if row is None:
        raise RuntimeError("the database gave no number to a new stream")
    return int(row)


def add_declaration(
    connection: Connection, *, row: int, number: int, leaf_index: int, pair: Pair, data: bytes, keywords: bytes
) -> None:
    """A declaration stands in its stream."""
    values = {"stream": row, "number": number, "leaf_index": leaf_index, "sm3": pair.sm3, "data": data, "keywords": keywords}
    connection.execute(insert(declaration).values(**values))


def declarations(connection: Connection, row: int) -> list[DeclarationRow]:
    """The declarations of a stream in order."""
    e = tables.evidence.c
    query = (
        select(declaration.c.number, declaration.c.leaf_index, e.evidence_id, declaration.c.data, declaration.c.keywords)
        .join(tables.evidence, e.leaf_index == declaration.c.leaf_index)
        .where(declaration.c.stream == row)
        .order_by(declaration.c.number)
    )
    return [
        DeclarationRow(found[0], found[1], bytes(found[2]), _blob(found[3]), _blob(found[4]))
        for found in connection.execute(query)
    ]


def add_slice(
    connection: Connection,
    *,
    row: int,
    number: int,
    leaf_index: int,
    declaration_number: int,
    epoch: int,
    created_ms: int,
    lines: int,
    header: bytes,
    object_id: bytes | None,
    counts: bytes | None,
    hashes: bytes | None,
) -> None:
    """A slice stands in its stream."""
    values = {
        "stream": row,
        "number": number,
        "leaf_index": leaf_index,
        "declaration": declaration_number,
        "epoch": epoch,
        "created_ms": created_ms,
        "lines": lines,
        "header": header,
        "object_id": object_id,
        "counts": counts,
        "hashes": hashes,
    }
    connection.execute(insert(slice_).values(**values))


def _blob(value: object) -> bytes:
    """The bytes of a column. SQLite may hold anything: what is no bytes is taken by its text, and refused where it is judged."""
    if type(value) is bytes:  # as nearly all are
        return value
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else str(value).encode("utf-8", "replace")


def _optional(value: object) -> bytes | None:
    return None if value is None else _blob(value)


def slices(
    connection: Connection, row: int, *, start: int = 0, stop: int | None = None, limit: int | None = None
) -> list[SliceRow]:
    """The slices of a stream with numbers in [start, stop), in order, at most `limit`."""
    e, s = tables.evidence.c, slice_.c
    query = (
        select(
            s.number, s.leaf_index, e.evidence_id, s.declaration, s.created_ms, s.lines, s.header, s.object_id, s.counts, s.hashes
        )
        .join(tables.evidence, e.leaf_index == s.leaf_index)
        .where(s.stream == row, s.number >= start)
        .order_by(s.number)
    )
    if stop is not None:
        query = query.where(s.number < stop)
    if limit is not None:
        query = query.limit(limit)
    return [
        SliceRow(number, leaf, bytes(item), declared, at, lines, _blob(h), _optional(file), _optional(counts), _optional(hashes))
        for number, leaf, item, declared, at, lines, h, file, counts, hashes in connection.execute(query).all()
    ]


def newest(connection: Connection, row: int) -> SliceRow | None:
    """The newest slice of a stream: its committed offset. Raises: VerificationError if its row is of no item."""
    number = connection.execute(select(func.max(slice_.c.number)).where(slice_.c.stream == row)).scalar()
    if number is None:
        return None
    for found in slices(connection, row, start=number, limit=1):
        return found
    raise VerificationError("newest slice of the stream is of no item")


def first_from(connection: Connection, row: int, created_ms: int) -> int | None:
    """The number of the first slice made at or after a time: their times ascend with their numbers, so that few are looked at."""
    s = slice_.c
    found, low, high = None, 0, connection.execute(select(func.max(s.number)).where(s.stream == row)).scalar()
    while high is not None and low <= high:
        middle = (low + high) // 2
        query = select(s.number, s.created_ms).where(s.stream == row, s.number >= middle).order_by(s.number).limit(1)
        number, at = connection.execute(query).one()
        if at < created_ms:
            low = number + 1
        else:
            found, high = int(number), middle - 1
    return found


def opening(connection: Connection, row: int, epoch: int) -> SliceRow | None:
    """The slice that opened an epoch."""
    s = slice_.c
    number = connection.execute(select(func.min(s.number)).where(s.stream == row, s.epoch == epoch)).scalar()
    return None if number is None else slices(connection, row, start=number, limit=1)[0]


def totals(connection: Connection, row: int) -> tuple[int, int]:
    """(slices, lines) of a stream."""
    query = select(func.count(), func.coalesce(func.sum(slice_.c.lines), 0)).where(slice_.c.stream == row)
    count, lines = connection.execute(query).one()
    return int(count), int(lines)


def known_objects(connection: Connection, object_ids: Sequence[bytes]) -> set[bytes]:
    """Which of these files a slice names."""
    query = select(slice_.c.object_id).where(slice_.c.object_id.in_(object_ids))
    return {bytes(found) for found in connection.execute(query).scalars()}


def drop_object(connection: Connection, row: int, number: int) -> None:
    """The slice names no file any more: its archive is gone, its index stays."""
    connection.execute(update(slice_).where(slice_.c.stream == row, slice_.c.number == number).values(object_id=None))


def put_note(connection: Connection, row: int, first: int, last: int, note: bytes) -> None:
    """A recount note is kept; one of the same slices stands as it was."""
    c = recount.c
    if connection.execute(select(c.id).where(c.stream == row, c.first == first, c.last == last)).one_or_none() is None:
        connection.execute(insert(recount).values(stream=row, first=first, last=last, note=note))


def notes(connection: Connection, row: int, first: int, last: int) -> list[tuple[int, int, bytes]]:
    """(first, last, note) of the recount notes whose slices all lie in first…last, by their first slice."""
    c = recount.c
    query = select(c.first, c.last, c.note).where(c.stream == row, c.first >= first, c.last <= last).order_by(c.first, c.last)
    return [(found[0], found[1], bytes(found[2])) for found in connection.execute(query)]
