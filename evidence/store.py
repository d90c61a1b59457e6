"""The only SQL over the log's tables. Takes and gives plain values, never rows of a library.

One writer, many readers. On SQLite the file is in WAL mode with synchronous=FULL, so that a commit
that returned is on the disk; on PostgreSQL synchronous_commit stays on. A transaction is opened
by BEGIN IMMEDIATE, so that what was read before an insert still holds when it is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from operator import attrgetter, eq, ge, lt
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    and_,
    create_engine,
    delete,
    event,
    func,
    insert,
    null,
    select,
    text,
    tuple_,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from evidence import tables
from evidence.errors import HomeRefused, StorageFull, Unready
from evidence.statements import insert_many, run
from models.anchor import BlockRef
from models.digest import Pair

HEAD_ROW = 1
TREE_NUMBER = {"sm3": 0, "sha256": 1}
_BOUND_PER_QUERY = 500
_READERS = 8


@dataclass(frozen=True, slots=True)
class HeadRow:
    """Where the stored log stands."""

    origin: str
    size: int
    epoch: int
    sm3_root: bytes
    sha256_root: bytes
    signed_at_s: int
    newest_ms: int


@dataclass(frozen=True, slots=True)
class ItemRow:
    """One stored item; `data` is E, or None once it was erased."""

    leaf_index: int
    evidence_id: bytes
    entry: bytes
    data: bytes | None
    template: str
    subject: str
    submitter: str
    commitment: str
    created_ms: int
    occurred_ms: int | None


@dataclass(frozen=True, slots=True)
class PartRow:
    """One part of a link."""

    part: int
    leaf_index: int
    pair: Pair
    closes: bool


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """Both notes that were signed at one size."""

    size: int
    note: str
    twin: str
    signed_at_s: int


_head_row = attrgetter(*HeadRow.__slots__)
_checkpoint_row = attrgetter(*CheckpointRow.__slots__)

_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "busy_timeout=10000",
    "foreign_keys=ON",
    "secure_delete=ON",
    "wal_autocheckpoint=2000",
    "cache_size=-16384",
)


def _sqlite_pragmas(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def make_engine(url: str, *, readers: int) -> Engine:
    """An engine whose commits are durable; on SQLite every transaction begins as `begin` states per connection.

    Shapes: `readers` 0 gives one connection that writes, else a pool that reads.
    """
    if url.startswith("sqlite"):
        engine = create_engine(
            url, poolclass=QueuePool, pool_size=max(1, readers), max_overflow=0, connect_args={"check_same_thread": False}
        )
        event.listen(engine, "connect", _sqlite_pragmas)
        begin = "BEGIN" if readers else "BEGIN IMMEDIATE"
        event.listen(engine, "begin", lambda connection: run(connection, begin))
        return engine
    return create_engine(url, poolclass=QueuePool, pool_size=max(1, readers), max_overflow=0, pool_pre_ping=bool(readers))


class Store:
    """The main database: one connection that writes, a pool that reads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.writer = make_engine(url, readers=0)
        self.reader = make_engine(url, readers=_READERS)
        self._lock: Connection | None = None
        self._lock_number: int | None = None

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a file of this machine."""
        return self.writer.dialect.name == "sqlite"

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its first statement; committed unless an error leaves it."""
        with self.writer.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A snapshot: everything read within stands at one moment."""
        options = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        with self.reader.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    def hold_sequencer_lock(self, number: int) -> None:
        """Make this process the log's one sequencer on PostgreSQL; a file lock does it on SQLite.

        Raises: HomeRefused if another process holds it.
        Source: architecture §5 (one sequencer). The lock alone does not fence; the compare-and-swap on the head does.
        """
        if self.is_sqlite:
            return
        self._lock_number = number
        engine = create_engine(self.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        connection = engine.connect()
        if not connection.execute(text("SELECT pg_try_advisory_lock(:n)"), {"n": number}).scalar():
            connection.close()
            raise HomeRefused("another process is the sequencer of this log: expected to be the only one")
        self._lock = connection

    def renew(self) -> None:
        """Drop every connection, so that the next statement opens a fresh one; a lock that died with the server is taken again.

        Raises: HomeRefused if another process has taken the lock meanwhile; DBAPIError if the server does not answer.
        """
        self._drop()
        if self._lock_number is None:
            return
        if self._lock is not None:
            try:
                self._lock.execute(text("SELECT 1"))
            except DBAPIError:
                self._lock.close()
                self._lock = None
            else:
                return
        self.hold_sequencer_lock(self._lock_number)

    def _drop(self) -> None:
        self.writer.dispose()
        self.reader.dispose()

    def close(self) -> None:
        """Close every connection and give the sequencer lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        self._drop()


def storage_error(error: DBAPIError) -> Unready:
    """What a database error means for a caller: a full disk (507), or something that may pass (503)."""
    said = str(error.orig).lower()
    if "full" in said or "no space" in said or "disk i/o" in said or "readonly" in said or "read-only" in said:
        return StorageFull("the database cannot write: its disk is full or refuses writes", retry_after_s=30)
    return Unready("the database cannot be reached or refuses the transaction", retry_after_s=5)


# --- the head -------------------------------------------------------------------------------------------------


def read_head(connection: Connection, *, lock: bool = False) -> HeadRow | None:
    """The log's head, or None before `evidence init`.

    With `lock` the answer waits for the end of any transaction that is moving the head; SQLite's
    BEGIN IMMEDIATE has waited already.
    """
    query = select(tables.head).where(tables.head.c.id == HEAD_ROW)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        return None
    return HeadRow(row.origin, row.size, row.epoch, bytes(row.sm3_root), bytes(row.sha256_root), row.signed_at_s, row.newest_ms)


def create_head(connection: Connection, head: HeadRow) -> None:
    """Write the head of an empty log."""
    connection.execute(insert(tables.head).values(id=HEAD_ROW, **_head_values(head)))


def _head_values(head: HeadRow) -> dict[str, Any]:
    return {name: getattr(head, name) for name in HeadRow.__slots__}


_MOVE_HEAD = (
    "UPDATE head SET origin = ?, size = ?, epoch = ?, sm3_root = ?, sha256_root = ?, signed_at_s = ?, newest_ms = ?"
    " WHERE id = 1 AND size = ? AND epoch = ?"
)


def move_head(connection: Connection, old: HeadRow, new: HeadRow) -> bool:
    """Whether the head stood at `old` and now stands at `new`: the compare-and-swap that lets one writer win."""
    return run(connection, _MOVE_HEAD, (*_head_row(new), old.size, old.epoch)).rowcount == 1


# --- items ----------------------------------------------------------------------------------------------------

Rows = Sequence[tuple[Any, ...]]


def insert_rows(
    connection: Connection, *, items: Rows, contents: Rows, keys: Rows, blinds: Rows, parts: Rows, conflicts: Rows, audits: Rows
) -> None:
    """All rows of a batch of new items, one statement a table; each row in the order of its table's columns."""
    for table, rows in (
        (tables.evidence, items),
        (tables.content, contents),
        (tables.idempotency, keys),
        (tables.blind, blinds),
        (tables.link_part, parts),
        (tables.conflict, conflicts),
        (tables.audit, audits),
    ):
        insert_many(connection, table, rows)


_KEEP_BLOCK = "INSERT INTO block (chain, height, hash, proof) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"


def keep_block(connection: Connection, ref: BlockRef, proof: bytes) -> None:
    """The proof of a block that items of this transaction name is stored; the first one given stands."""
    run(connection, _KEEP_BLOCK, (ref.chain, ref.height, ref.hash, proof))


def read_block(connection: Connection, ref: BlockRef) -> bytes | None:
    """The stored proof of a block, the bytes of `blocks/N.json`; None if there is none."""
    c = tables.block.c
    query = select(c.proof).where(c.chain == ref.chain, c.height == ref.height, c.hash == ref.hash)
    proof = connection.execute(query).scalar_one_or_none()
    return None if proof is None else bytes(proof)


_STORED = "SELECT leaf_index, data, entry FROM evidence WHERE leaf_index >= ? AND leaf_index < ? ORDER BY leaf_index"


def read_stored(connection: Connection, start: int, stop: int) -> list[tuple[int, bytes | None, bytes]]:
    """(leaf_index, E, entry) of the items in [start, stop), in log order: the bytes as the database now has them."""
    rows = run(connection, _STORED, (start, stop))
    return [(row[0], None if row[1] is None else bytes(row[1]), bytes(row[2])) for row in rows]


def read_entries(connection: Connection, start: int, stop: int) -> list[bytes]:
    """The 64-byte entries of [start, stop)."""
    c = tables.evidence.c
    rows = connection.execute(select(c.entry).where(c.leaf_index >= start, c.leaf_index < stop).order_by(c.leaf_index))
    return [bytes(row[0]) for row in rows]


def _item(row: Any) -> ItemRow:
    index, identity, entry, data, *rest = row
    return ItemRow(index, bytes(identity), bytes(entry), None if data is None else bytes(data), *rest)


def read_item(connection: Connection, leaf_index: int) -> ItemRow | None:
    """The item at `leaf_index`."""
    row = connection.execute(select(tables.evidence).where(tables.evidence.c.leaf_index == leaf_index)).one_or_none()
    return None if row is None else _item(row)


def read_items(connection: Connection, indexes: Sequence[int]) -> list[ItemRow]:
    """The items at `indexes`, in that order; absent ones left out."""
    found: dict[int, ItemRow] = {}
    for part in _portions(indexes):
        for row in connection.execute(select(tables.evidence).where(tables.evidence.c.leaf_index.in_(part))):
            found[row.leaf_index] = _item(row)
    return [found[index] for index in indexes if index in found]


def _portions(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _BOUND_PER_QUERY):
        yield values[start : start + _BOUND_PER_QUERY]


def find_prefix(connection: Connection, low: bytes, high: bytes, limit: int) -> list[tuple[bytes, int]]:
    """(evidence id, leaf_index) of ids in [low, high]."""
    c = tables.evidence.c
    rows = connection.execute(
        select(c.evidence_id, c.leaf_index)
        .where(c.evidence_id >= low, c.evidence_id <= high)
        .order_by(c.evidence_id)
        .limit(limit)
    )
    return [(bytes(row[0]), row[1]) for row in rows]


def read_content(connection: Connection, leaf_index: int) -> bytes | None:
    """The encrypted content of an item."""
    return connection.execute(select(tables.content.c.data).where(tables.content.c.leaf_index == leaf_index)).scalar()


@cache
def _existing_text(count: int) -> str:
    return f"SELECT key, leaf_index FROM idempotency WHERE key IN ({', '.join('?' * count)})"  # noqa: S608 - question marks


def existing_keys(connection: Connection, keys: Sequence[bytes]) -> dict[bytes, int]:
    """Which of these idempotency keys are taken, and by which item."""
    found: dict[bytes, int] = {}
    for part in _portions(keys):
        # Filled up to a power of two, so that the database meets a few statements again and again.
        filled = (*part, *[part[-1]] * ((1 << (len(part) - 1).bit_length()) - len(part)))
        for row in run(connection, _existing_text(len(filled)), filled):
            found[bytes(row[0])] = row[1]
    return found


@dataclass(frozen=True, slots=True)
class Filter:
    """Which items a search is for: leaf indexes in [start, stop) that carry every tag and fit the rest."""

    start: int
    stop: int
    tags: tuple[bytes, ...] = ()
    template: str | None = None
    subject: str | None = None
    occurred_from_ms: int | None = None
    occurred_to_ms: int | None = None

    def apply(self, query: Any) -> Any:
        """`query` over the evidence table, narrowed to these items."""
        c, e = tables.blind.c, tables.evidence.c
        query = query.where(e.leaf_index >= self.start, e.leaf_index < self.stop)
        for tag in self.tags:
            query = query.where(e.leaf_index.in_(select(c.leaf_index).where(c.tag == tag)))
        for column, compare, value in (
            (e.template, eq, self.template),
            (e.subject, eq, self.subject),
            (e.occurred_ms, ge, self.occurred_from_ms),
            (e.occurred_ms, lt, self.occurred_to_ms),
        ):
            if value is not None:
                query = query.where(compare(column, value))
        return query

    @property
    def is_open(self) -> bool:
        """Whether every item of the range fits."""
        return not self.tags and (self.template, self.subject, self.occurred_from_ms, self.occurred_to_ms) == (None,) * 4


def search(connection: Connection, wanted: Filter, limit: int) -> list[ItemRow]:
    """The newest `limit` items that fit, newest first; E is left out."""
    e = tables.evidence.c
    columns = [column if column.name != "data" else null().label("data") for column in tables.evidence.columns]
    rows = connection.execute(wanted.apply(select(*columns)).order_by(e.leaf_index.desc()).limit(limit))
    return [_item(row) for row in rows]


def count(connection: Connection, wanted: Filter) -> int:
    """How many items fit."""
    if wanted.is_open:
        return max(0, wanted.stop - wanted.start)
    return int(connection.execute(wanted.apply(select(func.count()).select_from(tables.evidence))).scalar_one())


def first_created_from(connection: Connection, moment_ms: int, size: int) -> int:
    """The first leaf index whose created_at is ≥ `moment_ms`: created_at never falls along the log, so bisect."""
    c = tables.evidence.c
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        created = connection.execute(select(c.created_ms).where(c.leaf_index == middle)).scalar_one()
        low, high = (middle + 1, high) if created < moment_ms else (low, middle)
    return low


# --- links and conflicts --------------------------------------------------------------------------------------


def link_heads(connection: Connection, links: Sequence[bytes]) -> dict[bytes, PartRow]:
    """The newest part of each of these links."""
    c = tables.link_part.c
    found: dict[bytes, PartRow] = {}
    for part in _portions(links):
        newest = select(c.link, func.max(c.part)).where(c.link.in_(part)).group_by(c.link)
        query = select(tables.link_part).where(tuple_(c.link, c.part).in_(newest))
        for row in connection.execute(query):
            found[bytes(row.link)] = PartRow(row.part, row.leaf_index, Pair(bytes(row.sm3), bytes(row.sha256)), row.closes)
    return found


def link_parts(connection: Connection, link: bytes) -> list[PartRow]:
    """All parts of a link in order."""
    c = tables.link_part.c
    rows = connection.execute(select(tables.link_part).where(c.link == link).order_by(c.part))
    return [PartRow(row.part, row.leaf_index, Pair(bytes(row.sm3), bytes(row.sha256)), row.closes) for row in rows]


def conflicts_of(connection: Connection, key: bytes) -> dict[bytes, int]:
    """The conflict records under one idempotency key: digest of the refused statement → item."""
    c = tables.conflict.c
    return {bytes(row.digest): row.leaf_index for row in connection.execute(select(tables.conflict).where(c.key == key))}


# --- tiles and checkpoints ------------------------------------------------------------------------------------


def put_tiles(connection: Connection, tiles: Iterable[tuple[int, int, int, bytes]]) -> None:
    """Store full tiles: (tree, level, number, 256 hashes)."""
    insert_many(connection, tables.tile, list(tiles))


def read_tile(connection: Connection, tree: int, level: int, number: int) -> bytes | None:
    """A full tile, 8,192 bytes."""
    c = tables.tile.c
    return connection.execute(select(c.data).where(and_(c.tree == tree, c.level == level, c.number == number))).scalar()


def put_checkpoint(connection: Connection, row: CheckpointRow) -> None:
    """Store both notes signed at one size."""
    insert_many(connection, tables.checkpoint, [_checkpoint_row(row)])


def read_checkpoint(connection: Connection, *, size: int | None = None, at_least: int | None = None) -> CheckpointRow | None:
    """The checkpoint of exactly `size`, or the smallest of `at_least` that size, or the newest."""
    query = select(tables.checkpoint)
    c = tables.checkpoint.c
    if size is not None:
        query = query.where(c.size == size)
    elif at_least is not None:
        query = query.where(c.size >= at_least).order_by(c.size).limit(1)
    else:
        query = query.order_by(c.size.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else CheckpointRow(*row)


def write_audit(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Record who did what: names, ids and digests only."""
    if rows:
        connection.execute(insert(tables.audit), rows)


def delete_content(connection: Connection, leaf_index: int) -> None:
    """Remove the encrypted content and the blind rows of one item."""
    connection.execute(delete(tables.content).where(tables.content.c.leaf_index == leaf_index))
    connection.execute(delete(tables.blind).where(tables.blind.c.leaf_index == leaf_index))
